brokerproof.take("run-21", [[958,21,"FAIL","2",[]]]);
