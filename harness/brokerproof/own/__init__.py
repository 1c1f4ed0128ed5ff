"""Experiments of one's own: an application's tests that run as treatment, control and sham, and end in a verdict.

    from brokerproof.own import experiment

    @experiment("shop/an-order-is-not-lost", sentence="An order that was answered is in the database, once.",
                control="orders are published without waiting for the broker's confirm")
    def test_orders(arm, rabbitmq, faults, history): ...

The function is called once an arm; what it records and the faults that it asks for are judged as a claim's are.
"""

from brokerproof.own.experiment import experiment

__all__ = ["experiment"]
