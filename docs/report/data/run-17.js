brokerproof.take("run-17", [[617,17,"INFO","1",[]],[618,17,"INFO","1",[]],[619,17,"INFO","1",[]]]);
