"""Several threads in one step: they take tasks from a counter, and a phase is over when its tasks are done.

Nobody waits for a thread without a task. A worker that is not scheduled, or is still waking up, joins the others where
they are, or not at all. Only at the end of a step does the leader wait for those inside to leave. A result does not
depend on who computed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nvlm_trt.embedded.compiled.vector_writer import LINE, VectorWriter

__all__ = ["INSIDE", "SEEN", "WAKE", "TeamWriter"]

_DONE = 8  # in a phase's line, which begins with the number of its next task
INSIDE = 8  # in the first line of calls, which begins with their number: odd while a step is on
SEEN, WAKE = 8, 16  # in a worker's line, which begins with whether it sleeps
# Looks, of some 14 nanoseconds; then a thread that waits for a task gives way, and a worker without a step sleeps. What
# an engine does between two steps takes a tenth of a millisecond.
_PATIENCE, _IDLE_PATIENCE = 2000, 8000


class TeamWriter:
    """``board`` has a line for each phase, which must be 0 when a step begins."""

    def __init__(self, w: VectorWriter) -> None:
        self.w = w
        ir, nothing = w.ir, w.ir.VoidType()
        self._yield = ir.Function(w.module, ir.FunctionType(w.word, []), "sched_yield")
        self._pause = None
        if w.is_x86:
            self._pause = ir.Function(w.module, ir.FunctionType(nothing, []), "llvm.x86.sse2.pause")

    @contextmanager
    def phase(self, board: Any, phase: Any, count: Any) -> Iterator[Any]:
        """The task numbers below ``count`` that this thread gets; after the loop all of them are done."""
        w, b = self.w, self.w.b
        line, count = w.at(board, (w.integer(phase), LINE)), w.integer(count)
        before = b.block
        head, body, after = (b.function.append_basic_block(name) for name in ("next", "task", "taken"))
        b.branch(head)
        b.position_at_end(head)
        taken = b.phi(w.size)
        taken.add_incoming(w.size(0), before)
        task = b.atomic_rmw("add", line, w.size(1), "monotonic")
        b.cbranch(b.icmp_signed("<", task, count), body, after)
        b.position_at_end(body)
        yield task
        taken.add_incoming(b.add(taken, w.size(1)), b.block)
        b.branch(head)
        b.position_at_end(after)
        w.call("settle", w.at(line, _DONE), taken, count)

    def write_settle(self) -> None:
        """``settle(done, own, count)``: report one's own tasks, and return when all ``count`` are done."""
        w = self.w
        with w.function("settle", "aii", exported=False) as (done, own, count):
            b = w.b
            with b.if_then(b.icmp_signed(">", own, w.size(0))):
                b.atomic_rmw("add", done, own, "acq_rel")
            with self._looking(lambda: b.icmp_signed(">=", self._see(done), count)):
                b.call(self._yield, [])

    def write_call(self) -> None:
        """``call(calls, workers)``: announce a new step. ``WAKE`` of each worker says whether it has to be woken."""
        w = self.w
        with w.function("call", "ai") as (calls, workers):
            w.b.atomic_rmw("add", calls, w.size(1), "seq_cst")
            with w.loop(workers) as worker:
                line = w.at(calls, LINE, (worker.index, LINE))
                w.store(w.b.atomic_rmw("xchg", line, w.size(0), "seq_cst"), w.at(line, WAKE))

    def write_lead(self) -> None:
        """``lead(calls, record)``: run the announced step as thread 0; returns when all is done and nobody inside."""
        w = self.w
        with w.function("lead", "aa") as (calls, record):
            b = w.b
            w.call("step", record, 0)
            b.atomic_rmw("add", calls, w.size(1), "seq_cst")
            inside = w.at(calls, INSIDE)
            with self._looking(lambda: b.icmp_signed("==", self._see(inside), w.size(0))):
                b.call(self._yield, [])

    def write_work(self) -> None:
        """``work(calls, record, thread)``: take part in steps. Returns when none has come for a while, or at a negative
        number of calls. It announces this first, so whoever finds a worker asleep has to wake it.
        """
        w = self.w
        with w.function("work", "aai") as (calls, record, thread):
            b = w.b
            line, inside = w.at(calls, (thread, LINE)), w.at(calls, INSIDE)  # thread 0 leads: worker 0 is thread 1
            again, gone = b.function.append_basic_block("again"), b.function.append_basic_block("gone")
            b.branch(again)
            b.position_at_end(again)
            seen = w.load(w.at(line, SEEN), w.size)

            def called() -> Any:
                number = self._see(calls)
                is_on = b.icmp_signed("==", b.and_(number, w.size(1)), w.size(1))
                return b.and_(b.icmp_signed("!=", number, seen), b.or_(is_on, b.icmp_signed("<", number, w.size(0))))

            with self._looking(called, _IDLE_PATIENCE):
                b.atomic_rmw("xchg", line, w.size(1), "seq_cst")
                with b.if_then(b.not_(called())):
                    b.branch(gone)
                was = b.atomic_rmw("xchg", line, w.size(0), "seq_cst")
                with b.if_then(b.icmp_signed("==", was, w.size(0))):
                    b.branch(gone)  # it has been found, and is being woken
            number = self._see(calls)
            with b.if_then(b.icmp_signed("<", number, w.size(0))):
                b.branch(gone)
            w.store(number, w.at(line, SEEN))
            b.atomic_rmw("add", inside, w.size(1), "seq_cst")
            is_on = b.icmp_signed("==", b.and_(number, w.size(1)), w.size(1))
            with b.if_then(b.and_(is_on, b.icmp_signed("==", self._see(calls), number))):
                w.call("step", record, thread)
            b.atomic_rmw("sub", inside, w.size(1), "seq_cst")
            b.branch(again)
            b.position_at_end(gone)

    def _see(self, address: Any) -> Any:
        return self.w.b.load_atomic(address, "seq_cst", 8, typ=self.w.size)

    @contextmanager
    def _looking(self, come: Callable[[], Any], patience: int = _PATIENCE) -> Iterator[None]:
        """Poll until ``come()`` is true; after ``patience`` polls, also run the body before each."""
        w, b = self.w, self.w.b
        before = b.block
        look, no, pausing, tired, after = (
            b.function.append_basic_block(name) for name in ("look", "no", "pausing", "tired", "after")
        )
        b.branch(look)
        b.position_at_end(look)
        looks = b.phi(w.size)
        looks.add_incoming(w.size(0), before)
        b.cbranch(come(), after, no)
        b.position_at_end(no)
        again = b.add(looks, w.size(1))
        b.cbranch(b.icmp_signed("<", again, w.size(patience)), pausing, tired)
        b.position_at_end(pausing)
        if self._pause:
            b.call(self._pause, [])
        looks.add_incoming(again, pausing)
        b.branch(look)
        b.position_at_end(tired)
        yield
        looks.add_incoming(w.size(patience), b.block)
        b.branch(look)
        b.position_at_end(after)
