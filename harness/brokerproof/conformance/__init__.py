"""Protocol conformance: cases on the wire, judged against a table of accepted outcomes.

    case.py      what a case is: data, a table of accepted outcomes, and a short script
    scene.py     what its script is handed: steps to judge, values to record, a log of every octet
    link.py      one TCP connection whose octets and ending are logged
    protocols.py which protocol a product speaks, and where the cases of it are run
    running.py   runs cases on a cluster or on a reference peer, side by side where they are isolated
    ledger.py    what vendors say of themselves in public, and where that differs from what was measured

    amqp091/ kafka/ rocketmq/     per protocol: its scene, its ground on a real cluster, its reference peer with mutants

The cases themselves are in ``suites/conformance/<protocol>/test_*.py``, one file per section of the specification.
"""
