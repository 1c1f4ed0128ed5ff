brokerproof.take("run-29", [[870,29,"INFO","1",[]],[950,29,"INFO","1",[]]]);
