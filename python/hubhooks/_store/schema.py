"""The tables of a store, and all its SQL statements."""

from __future__ import annotations

# One entry is one transaction. A released entry is never changed.
MIGRATIONS = (
    (
        # Rows are ordered by `seq`, not by time: clocks go back. AUTOINCREMENT never uses a number
        # again, so pruning by `seq` cannot drop a newer delivery.
        """CREATE TABLE deliveries (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
            received_at REAL NOT NULL,
            scope TEXT NOT NULL, action TEXT NOT NULL, repo TEXT, state TEXT NOT NULL, aside TEXT,
            reason TEXT NOT NULL, is_replay INTEGER NOT NULL, is_delivered INTEGER NOT NULL,
            duplicates INTEGER NOT NULL, headers TEXT NOT NULL, size INTEGER NOT NULL)""",
        "CREATE INDEX deliveries_state ON deliveries (state)",
        "CREATE INDEX deliveries_repo ON deliveries (repo) WHERE repo IS NOT NULL",
        "CREATE INDEX deliveries_scope ON deliveries (scope)",
        "CREATE INDEX deliveries_received_at ON deliveries (received_at)",
        # A table of its own: a change of state does not write the body again.
        "CREATE TABLE bodies (seq INTEGER PRIMARY KEY, body BLOB NOT NULL)",
        """CREATE TABLE runs (
            seq INTEGER NOT NULL, handler TEXT NOT NULL, position INTEGER NOT NULL,
            state TEXT NOT NULL, attempts INTEGER NOT NULL, failures INTEGER NOT NULL,
            interruptions INTEGER NOT NULL,
            due_at REAL, started_at REAL, finished_at REAL, error TEXT NOT NULL,
            traceback TEXT NOT NULL, PRIMARY KEY (seq, handler)) WITHOUT ROWID""",
        # `finished_at IS NULL` instead of a list of states: 16 us cheaper per row. By handler: the
        # waiting runs of a busy handler are skipped without being read.
        """CREATE INDEX runs_unfinished ON runs (state, handler, seq, position)
            WHERE finished_at IS NULL""",
        """CREATE VIEW finished AS SELECT * FROM deliveries WHERE NOT EXISTS (
            SELECT 1 FROM runs WHERE runs.seq = deliveries.seq AND finished_at IS NULL)""",
        """CREATE TABLE refusals (
            minute INTEGER NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
            PRIMARY KEY (minute, reason)) WITHOUT ROWID""",
        # One row: how often the leader changed, and the size of all bodies.
        "CREATE TABLE log (generation INTEGER NOT NULL, body_bytes INTEGER NOT NULL)",
        "INSERT INTO log VALUES (0, 0)",
    ),
    (
        # Processes that opened the store. `code` is the version of the app's modules, executed at
        # `loaded_at`. A killed process has no `ended_at`.
        """CREATE TABLE processes (
            id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, host TEXT NOT NULL,
            start_time TEXT NOT NULL, code TEXT NOT NULL, loaded_at REAL NOT NULL,
            handlers TEXT NOT NULL, led_at REAL, ended_at REAL)""",
        """CREATE TABLE attempts (
            seq INTEGER NOT NULL, handler TEXT NOT NULL, attempt INTEGER NOT NULL,
            started_at REAL NOT NULL, process INTEGER,
            PRIMARY KEY (seq, handler, attempt)) WITHOUT ROWID""",
        # The app that the store belongs to, once an app opened it; the leader, and the file that
        # the leader locked.
        "ALTER TABLE log ADD COLUMN app TEXT",
        "ALTER TABLE log ADD COLUMN leader INTEGER",
        "ALTER TABLE log ADD COLUMN leader_lock TEXT NOT NULL DEFAULT ''",
    ),
    # The states get the names of `State`.
    tuple(
        f"UPDATE {table} SET {column} = '{new}' WHERE {column} = '{old}'"  # noqa: S608 - constants
        for table, column, old, new in (
            ("deliveries", "state", "waiting", "retrying"),
            ("deliveries", "state", "overdue", "stuck"),
            ("deliveries", "state", "done", "succeeded"),
            ("deliveries", "state", "unreadable", "malformed"),
            ("deliveries", "aside", "unreadable", "malformed"),
            ("runs", "state", "waiting", "retrying"),
            ("runs", "state", "overdue", "stuck"),
            ("runs", "state", "done", "succeeded"),
        )
    ),
    # Groups of runs, for `serial=` and `debounce=`.
    (
        # `ready_at` is the end of the wait for a newer delivery. `first_at` is when the oldest
        # delivery that this run replaces was stored. `superseded_by` is the delivery that replaced
        # this one.
        """CREATE TABLE run_groups (
            seq INTEGER NOT NULL, handler TEXT NOT NULL, serial TEXT NOT NULL,
            subject TEXT NOT NULL, ready_at REAL NOT NULL, first_at REAL NOT NULL,
            superseded_by INTEGER,
            PRIMARY KEY (seq, handler)) WITHOUT ROWID""",
        "CREATE INDEX run_groups_serial ON run_groups (handler, serial, seq) WHERE serial <> ''",
        "CREATE INDEX run_groups_subject ON run_groups (handler, subject, seq) WHERE subject <> ''",
        """CREATE INDEX run_groups_superseded ON run_groups (superseded_by, handler)
            WHERE superseded_by IS NOT NULL""",
    ),
)


# ---- deliveries ---------------------------------------------------------------------------------

SELECT_SEQ = "SELECT seq FROM deliveries WHERE id = ?"
INSERT_DELIVERY = """
    INSERT INTO deliveries (id, received_at, scope, action, repo, state, aside, reason, is_replay,
        is_delivered, duplicates, headers, size)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
INSERT_BODY = "INSERT INTO bodies VALUES (?, ?)"
SELECT_DELIVERIES = """
    SELECT seq, id, received_at, scope, action, repo, aside, reason, is_replay, is_delivered,
        duplicates, headers, size FROM deliveries
"""
SELECT_BODY = "SELECT body FROM bodies JOIN deliveries USING (seq) WHERE id = ?"
HAS_BODY = "SELECT 1 FROM bodies JOIN deliveries USING (seq) WHERE id = ?"
SELECT_IDS = "SELECT id FROM deliveries WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
COUNT_RECENT = """
    SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE received_at >= ? LIMIT ?)
"""
COUNT_STATES = "SELECT state, count(*) FROM deliveries GROUP BY state"
SELECT_OLDEST_UNFINISHED = """
    SELECT received_at FROM deliveries WHERE seq = (
        SELECT min(seq) FROM runs INDEXED BY runs_unfinished WHERE finished_at IS NULL)
"""
SET_STATE = """
    UPDATE deliveries SET state = ?, is_delivered = is_delivered OR ? WHERE seq = ?
"""
SET_ACKNOWLEDGED = "UPDATE deliveries SET is_delivered = true WHERE id = ?"
COUNT_DUPLICATE = "UPDATE deliveries SET duplicates = duplicates + 1 WHERE id = ?"
# A run was added to a delivery that no handler matched.
CLEAR_SKIPPED = "UPDATE deliveries SET aside = NULL WHERE seq = ?"
DELETE_DELIVERY = "DELETE FROM deliveries WHERE seq = ?"

# ---- runs and attempts --------------------------------------------------------------------------

INSERT_RUN = "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_QUEUED_RUN = """
    INSERT INTO runs (seq, handler, position, state, attempts, failures, interruptions, due_at,
        error, traceback)
    VALUES (?, ?, ?, 'queued', 0, 0, 0, ?, '', '')
"""
REQUEUE_RUN = """
    UPDATE runs SET state = 'queued', due_at = ?, finished_at = NULL
    WHERE seq = ? AND handler = ?
"""
SELECT_RUNS = """
    SELECT handler, state, attempts, failures, interruptions, due_at, started_at, finished_at,
        error, traceback FROM runs WHERE seq = ? ORDER BY position
"""
SELECT_RUN_STATES = "SELECT state FROM runs WHERE seq = ?"
# A running delivery has no `aside`, so its state depends on its runs only.
SELECT_STATES = """
    SELECT seq, handler, attempts, runs.state FROM deliveries JOIN runs USING (seq) WHERE id = ?
"""
SELECT_STARTABLE = """
    SELECT seq, attempts + 1, is_replay, received_at, failures FROM deliveries JOIN runs USING (seq)
    WHERE handler = ? AND id = ? AND runs.state IN ('queued', 'retrying')
"""
START_RUN = """
    UPDATE runs SET state = 'running', attempts = ?, started_at = ?, due_at = NULL
    WHERE seq = ? AND handler = ?
"""
END_RUN = """
    UPDATE runs SET state = ?, due_at = ?, finished_at = ?, error = ?, traceback = ?,
        failures = failures + ?, interruptions = interruptions + ? WHERE seq = ? AND handler = ?
"""
# The error of an earlier attempt stays until the run ends.
SET_STUCK = "UPDATE runs SET state = 'stuck' WHERE seq = ? AND handler = ?"
# The handlers with runs in a state. One step per handler, not per run.
SELECT_HANDLERS = """
    WITH RECURSIVE names (handler) AS (
        SELECT * FROM (SELECT handler FROM runs WHERE finished_at IS NULL AND state = ?
            ORDER BY handler LIMIT 1)
        UNION ALL
        SELECT (SELECT runs.handler FROM runs WHERE finished_at IS NULL AND state = ?
            AND runs.handler > names.handler ORDER BY runs.handler LIMIT 1)
        FROM names WHERE names.handler IS NOT NULL)
    SELECT handler FROM names WHERE handler IS NOT NULL
"""
# A start in the future means that the clock was set back: do not wait for it.
SELECT_READY = """
    SELECT seq, position, id, handler FROM runs JOIN deliveries USING (seq)
    WHERE finished_at IS NULL AND runs.state = ? AND handler = ? AND (interruptions > 0) = ?
        AND (due_at IS NULL OR due_at <= ? OR started_at > ? OR runs.state = 'queued')
    ORDER BY seq, position LIMIT ?
"""
SELECT_NEXT_DUE = """
    SELECT min(due_at) FROM runs WHERE finished_at IS NULL AND state = 'retrying' AND due_at > ?
"""
SELECT_WAITING_RUNS = """
    SELECT seq FROM runs
    WHERE finished_at IS NULL AND state IN ('queued', 'retrying') AND handler = ? LIMIT ?
"""
COUNT_WAITING_RUNS = """
    SELECT handler, count(*) FROM runs
    WHERE finished_at IS NULL AND state IN ('queued', 'retrying') GROUP BY handler
"""
# A queued run has a `due_at` only if it was replayed.
SELECT_BACKLOG = """
    SELECT handler, count(*), min(ifnull(due_at, received_at)) FROM runs JOIN deliveries USING (seq)
    WHERE finished_at IS NULL AND runs.state IN ('queued', 'retrying') GROUP BY handler
"""
# The process of a run is that of its last attempt. Runs of an older store have no attempt.
SELECT_STARTED_RUNS = """
    SELECT deliveries.id, runs.handler, runs.attempts, interruptions + 1, process, pid, host,
        start_time
    FROM runs JOIN deliveries USING (seq)
        LEFT JOIN attempts ON attempts.seq = runs.seq AND attempts.handler = runs.handler
            AND attempt = runs.attempts
        LEFT JOIN processes ON processes.id = process
    WHERE finished_at IS NULL AND runs.state IN ('running', 'stuck')
"""
DELETE_RUNS = "DELETE FROM runs WHERE seq = ?"
# A store that another program changed may have the row already.
INSERT_ATTEMPT = "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?)"
SELECT_ATTEMPTS = """
    SELECT handler, attempt, attempts.started_at, process, pid, code
    FROM attempts LEFT JOIN processes ON processes.id = process
    WHERE seq = ? ORDER BY handler, attempt
"""
DELETE_ATTEMPTS = "DELETE FROM attempts WHERE seq = ?"
DELETE_GROUPS = "DELETE FROM run_groups WHERE seq = ?"

# ---- processes, the leader and the app ----------------------------------------------------------

INSERT_PROCESS = """
    INSERT INTO processes (pid, host, start_time, code, loaded_at, handlers)
    VALUES (?, ?, ?, ?, ?, ?)
"""
UPDATE_PROCESS = "UPDATE processes SET code = ?, loaded_at = ?, handlers = ? WHERE id = ?"
END_PROCESS = "UPDATE processes SET ended_at = ? WHERE id = ?"
END_ALL_PROCESSES = "UPDATE processes SET ended_at = ? WHERE ended_at IS NULL"
SELECT_UNENDED_PROCESSES = "SELECT id, pid, host, start_time FROM processes WHERE ended_at IS NULL"
SELECT_NEWER_PROCESSES = """
    SELECT id, pid, host, start_time, code, led_at, handlers FROM processes
    WHERE ended_at IS NULL AND code <> ? AND loaded_at > ? ORDER BY loaded_at DESC
"""
SELECT_LEADER = """
    SELECT id, pid, host, start_time, code, led_at, handlers, leader_lock
    FROM log JOIN processes ON processes.id = log.leader
"""
SET_LEADER = "UPDATE log SET generation = generation + 1, leader = ?, leader_lock = ?"
SET_LED_AT = "UPDATE processes SET led_at = ? WHERE id = ?"
SET_LEADER_LOCK = "UPDATE log SET leader_lock = ? WHERE leader = ?"
CLEAR_LEADER = "UPDATE log SET leader = NULL WHERE leader = ?"
FORGET_LEADER = "UPDATE log SET leader = NULL, leader_lock = ''"
SELECT_APP = "SELECT app FROM log"
SET_APP = "UPDATE log SET app = ?"

# ---- counters and rejections --------------------------------------------------------------------

SELECT_COUNTERS = "SELECT generation, body_bytes FROM log"
SELECT_GENERATION = "SELECT generation FROM log"
SELECT_BODY_BYTES = "SELECT body_bytes FROM log"
SET_BODY_BYTES = "UPDATE log SET body_bytes = ?"
SUBTRACT_BODY_BYTES = "UPDATE log SET body_bytes = body_bytes - ?"
# A number that only grows, to recognise an older copy of the file.
PROGRESS = """
    SELECT generation + (SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'deliveries')
    FROM log
"""
COUNT_REJECTIONS = """
    INSERT INTO refusals VALUES (?, ?, ?)
    ON CONFLICT (minute, reason) DO UPDATE SET count = count + excluded.count
"""
SUM_REJECTIONS = "SELECT reason, sum(count) FROM refusals GROUP BY reason"

# ---- pruning ------------------------------------------------------------------------------------

SUM_OLD_BODIES = """
    SELECT count(*), coalesce(sum(size), 0) FROM bodies JOIN finished USING (seq)
    WHERE received_at < ?
"""
COUNT_OLD_DELIVERIES = "SELECT count(*) FROM finished WHERE received_at < ?"
# By `seq` to make room, by time to drop old ones. A wrong clock makes these orders differ.
SELECT_OLDEST_BODIES = """
    SELECT bodies.seq, size FROM bodies JOIN finished USING (seq) ORDER BY bodies.seq LIMIT ?
"""
SELECT_OLD_BODIES = """
    SELECT seq, size FROM finished CROSS JOIN bodies USING (seq) WHERE received_at < ? LIMIT ?
"""
SELECT_OLD_DELIVERIES = "SELECT seq, size FROM finished WHERE received_at < ? LIMIT ?"
# A Replay may have made the delivery unfinished since it was chosen.
DROP_BODY = """
    DELETE FROM bodies WHERE seq = ? AND EXISTS (SELECT 1 FROM finished WHERE seq = ?)
"""
DROP_DELIVERY = """
    DELETE FROM deliveries WHERE seq = ? AND EXISTS (SELECT 1 FROM finished WHERE seq = ?)
"""
DROP_PROCESSES = "DELETE FROM processes WHERE ended_at < ?"
DROP_REJECTIONS = "DELETE FROM refusals WHERE minute * 60 < ?"
