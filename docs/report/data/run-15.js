brokerproof.take("run-15", [[608,15,"INFO","1",[]],[609,15,"INFO","1",[]],[610,15,"SKIP","1",[]]]);
