brokerproof.take("run-17", [[614,17,"INFO","1",[]],[615,17,"INFO","1",[]],[616,17,"INFO","1",[]]]);
