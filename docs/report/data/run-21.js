brokerproof.take("run-21", [[959,21,"PASS","3",[]]]);
