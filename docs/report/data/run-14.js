brokerproof.take("run-14", [[547,14,"PASS","2",[]]]);
