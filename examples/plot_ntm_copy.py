"""
A network that learns to copy
=============================

A neural Turing machine (Graves et al. 2014) is shown sequences, and after each the same sequence as
what it should answer. It learns to write the vectors to its memory, one slot after the other, and
to read them from there, and so it can copy sequences that are longer than any it was trained on.
"""

# %%
# A sequence is up to six vectors of four random bits, then a mark in a channel of its own, then as
# many steps without input, in which the vectors are to be answered. Targets that are NaN do not
# count. The machine sees each sequence once.

import matplotlib.pyplot as plt
import numpy as np

from fewshot_sklearn import NTMSequenceClassifier
from fewshot_sklearn.datasets import make_copy_sequences
from fewshot_sklearn.inspection import MemoryDisplay
from fewshot_sklearn.metrics import bits_per_sequence

X, y = make_copy_sequences(9600, lengths=(1, 6), n_bits=4, random_state=0)
machine = NTMSequenceClassifier(
    controller="feedforward",
    n_hidden=50,
    n_slots=32,
    slot_size=10,
    learning_rate=5e-3,
    batch_size=8,
    max_iter=1200,
    random_state=0,
)
machine.fit(X, y)

# %%
# The loss of every batch before it was learned from, in bits: one where nothing is known.

figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(8 * np.arange(1, 1201), np.array(machine.loss_curve_) / np.log(2))
ax.set(xlabel="sequences seen", ylabel="bits a bit")

# %%
# Copies of sequences of each length, and their cost. A sequence of ten vectors has forty bits.

for length in (3, 6, 8, 10):
    X_test, y_test = make_copy_sequences(50, lengths=length, n_bits=4, random_state=1)
    cost = bits_per_sequence(y_test, machine.predict_proba(X_test))
    share = machine.score(X_test, y_test)
    print(f"length {length:2}: {cost:.2f} bits a sequence, {share:.4f} of the bits are right")

# %%
# Where it writes and reads along a sequence of ten vectors: it goes through the memory while the
# vectors are shown, back to where it began at the mark, and through the same slots again.

X_test, _ = make_copy_sequences(1, lengths=10, n_bits=4, random_state=2)
MemoryDisplay.from_estimator(machine, X_test[0], name="copying ten vectors")
plt.show()
