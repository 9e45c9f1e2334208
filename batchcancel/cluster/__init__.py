"""The same pipeline on many hosts, on Temporal (design section 9).

A *coordinator* (``batchcancel submit``) holds the ledger and hands out shards; *workers* (``batchcancel
worker``) bring the invoices of a shard to their ends with the pipeline of a run; a *workflow*, one an API
quota, moves shards and answers between them, and outlives all of them.

=================  ====================================================================  ==============
module             purpose                                                               engine
=================  ====================================================================  ==============
``messages``       what travels, and nothing else: no secret, no kept column
``packing``        rows and answers of a shard as few bytes
``shares``         what part of the quota each shard gets
``pulses``         what workers say between two shards, put together
``lease``          until when a worker may send without a word from Temporal
``shard``          one shard on a worker: fleet, lease, answers
``coordinator``    manifest to shards, answers to ledger; stands where a fleet would
``dispatch``       its shards out: rows in their order, what shards left, canaries first
``intake``         its answers in, each written once
``books``          its rows: who has them, what became of them
``workflow``       ``AccountRun``: pure, imported again in Temporal's sandbox            workflow code
``connection``     how Temporal is reached, and what to mend if it is not                client
``worker``         the process that works on shards                                      worker
``submission``     the process that holds the job                                        client, worker
``running``        a job that runs, and what its workers say of their shards             client
``following``      such a job, looked at again and again until it has ended              client
=================  ====================================================================  ==============
"""
