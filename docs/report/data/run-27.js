brokerproof.take("run-27", [[871,27,"INFO","1",[]],[951,27,"INFO","1",[]]]);
