brokerproof.take("run-16", [[543,16,"PASS","2",[]]]);
