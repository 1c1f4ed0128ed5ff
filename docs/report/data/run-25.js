brokerproof.take("run-25", [[954,25,"PASS","2",[]],[956,25,"PASS","4",[]]]);
