"""What a run has used: the tokens, costs and requests to the model of its turns, against its budget."""

from math import inf

from msgspec.structs import replace

from clinvk.runtime.run.run_io import RunIO
from clinvk.types.events import Ending, RunFinished
from clinvk.types.request import RunRequest


class Spending:
    """What the turns of a run have used.

    Attributes:
        earlier: the ending of the earlier turns together; None in the first turn.
        budgets: how many times the run may use the budget of its request.
    """

    def __init__(self) -> None:
        self.earlier: Ending | None = None
        self.budgets = 1

    def total(self, ending: Ending) -> Ending:
        """Return the ending of the current turn with the usage, cost and turns of all turns."""
        earlier = self.earlier
        if not earlier:
            return ending
        used = [each.usage for each in (earlier, ending) if each.usage]
        costs = [each.cost_usd for each in (earlier, ending) if each.cost_usd is not None]
        total = replace(ending, usage=sum(used[1:], used[0]) if used else None, cost_usd=sum(costs) if costs else None)
        if isinstance(total, RunFinished) and isinstance(earlier, RunFinished) and total.turns is not None:
            return replace(total, turns=total.turns + (earlier.turns or 0))
        return total

    def tokens(self, io: RunIO | None) -> int:
        """Return the tokens that the agent has reported so far; `io` is the conversation of the current turn."""
        used = [self.earlier.usage] if self.earlier else []
        if io and not (self.earlier and io.costs):  # else the turn is one of the earlier turns
            used.append(io.used)
        return sum(usage.total_tokens for usage in used if usage)

    def tokens_left(self, request: RunRequest) -> float:
        """Return how many tokens the next turn may use."""
        return (request.max_total_tokens or inf) * self.budgets - self.tokens(None)

    def used_budget(self, request: RunRequest, ending: Ending) -> str:
        """Return the used part of the budget that ended the run, and the budget, as text."""
        total = self.total(ending)
        tokens = total.usage.total_tokens if total.usage else 0
        if request.max_total_tokens and tokens >= (most := request.max_total_tokens * self.budgets):
            return f"{tokens:,} tokens; its budget is {most:,}"
        return f"${total.cost_usd or 0:.2f}; its budget is ${(request.max_cost_usd or 0) * self.budgets:.2f}"
