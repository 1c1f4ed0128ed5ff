brokerproof.take("run-23", [[954,23,"INCONCLUSIVE","1",[]],[956,23,"INCONCLUSIVE","3",[]],[960,23,"FAIL","2",[]]]);
