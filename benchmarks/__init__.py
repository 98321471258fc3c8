"""The benchmark: this package and its peers, side by side, in one run.

Each contender is a process of its own with one event loop, so that nobody's imports or garbage disturb another; all of
one engine share its server, each with a database of its own and the same sessions in it. A burst is a number of
callers that call in a closed loop for a fixed time. Contenders take turns, burst by burst and round by round, so that
a noisy machine is noisy for all of them; what is reported is the median over the rounds.

``contenders/`` says what a call is for each of them, and with which settings; ``worker`` is their process; ``contest``
lets them take turns; ``load`` is the closed loop; ``report`` prints and draws. ``scripts/bench`` starts it.
"""
