brokerproof.take("run-22", [[961,22,"FAIL","2",[]]]);
