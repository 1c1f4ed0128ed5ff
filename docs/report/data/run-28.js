brokerproof.take("run-28", [[956,28,"PASS","4",[]]]);
