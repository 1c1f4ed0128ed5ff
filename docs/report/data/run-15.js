brokerproof.take("run-15", [[611,15,"INFO","1",[]],[612,15,"INFO","1",[]],[613,15,"SKIP","1",[]]]);
