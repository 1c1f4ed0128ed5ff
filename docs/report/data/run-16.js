brokerproof.take("run-16", [[546,16,"PASS","2",[]]]);
