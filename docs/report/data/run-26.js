brokerproof.take("run-26", [[871,26,"INCONCLUSIVE","1",[]],[951,26,"INCONCLUSIVE","1",[]],[955,26,"PASS","2",[]],[957,26,"FAIL","4",[]]]);
