brokerproof.take("run-18", [[544,18,"PASS","2",[]]]);
