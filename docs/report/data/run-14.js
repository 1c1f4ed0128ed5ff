brokerproof.take("run-14", [[544,14,"PASS","2",[]]]);
