"""`make chaos` and `make soak`: faults at random on a stack under load, and an outside record that judges it.

stack      every process of a stack, restarted when it dies
model      the tiny model it serves
poison     a worker that a prompt can kill
client     asks until there is an answer
load       owners who submit, wait, stream, cancel and send again
batch      a few lines in one file
wire       one HTTP request
ledger     what clients were told and what the stack's own log says, in a file outside of it
oracle     what was lost, doubled or poisoned, by the ledger alone
witness    reads the stack's log into the ledger
trainings  one fine-tune after the other
ground     where faults are done; what a row of the matrix is
matrix     the rows that can happen to a running stack
server_faults, process_faults   what they do
kills      deaths only, of whoever is up again
run        a run from its start to the verdict
recovery   how long until it served again
report     the table
soak       resident memory and descriptors, and their slopes
"""

MODEL = "tiny"
"""The name of the model that the stack serves."""
POISON = "~!~ poison ~!~"
"""The prompt that kills its workers."""
