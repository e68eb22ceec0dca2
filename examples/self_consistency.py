"""Self-consistency: several sampled reasonings of one question, and the vote on their answers.

python examples/self_consistency.py
"""

import adapt_jax
from adapt_jax.methods.base import RunOptions
from adapt_jax.methods.self_consistency import SelfConsistency

model = adapt_jax.load_pretrained("embedded")
task = adapt_jax.load_task(
    {
        "name": "arithmetic",
        "source": {"name": "arithmetic"},
        "instruction": "Solve the problem. Give the answer as a number.",
        "splits": {"train": 200, "development": 20, "test": 5},
    }
)
method = SelfConsistency(demonstrations=4, candidates=8, temperature=0.7, max_new_tokens=96)
adaptation = method.adapt(model, task, RunOptions(seed=0)).adaptation

question = task.test[0].question
print(question)
prediction = adaptation.ask(question, seed=1)
for candidate in prediction.candidates:
    print(f"{candidate.answer or '-':>5}  {candidate.reasoning}")
print(f"votes: {prediction.vote.counts}")
print(f"answer: {prediction.answer}, right is {task.test[0].answer}")
