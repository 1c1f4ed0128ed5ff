brokerproof.take("run-30", [[958,30,"FAIL","3",[]]]);
