"""The tables of a store, and all its SQL statements."""

from __future__ import annotations

# To add a column, append an entry here, and add the column to the INSERT and SELECT below. Then
# write it in `inserts.py`, and read it in `rows.py` into `models.py`. One entry is one transaction.
# An entry of the main branch is never changed.
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
    # An unfinished run is a row of the small table `open_runs`, which its end deletes. `attempts`
    # only grows at its end. So the starts and ends of runs change few pages.
    (
        """CREATE TABLE open_runs (
            seq INTEGER NOT NULL, handler TEXT NOT NULL, position INTEGER NOT NULL,
            state TEXT NOT NULL, attempts INTEGER NOT NULL, failures INTEGER NOT NULL,
            crashes INTEGER NOT NULL, due_at REAL, started_at REAL, process INTEGER,
            error TEXT NOT NULL, traceback TEXT NOT NULL,
            PRIMARY KEY (seq, handler)) WITHOUT ROWID""",
        """INSERT INTO open_runs
            SELECT seq, handler, position, state, attempts, failures, interruptions, due_at,
                started_at,
                (SELECT process FROM attempts WHERE attempts.seq = runs.seq
                    AND attempts.handler = runs.handler AND attempt = runs.attempts),
                error, traceback
            FROM runs WHERE finished_at IS NULL""",
        # A run that starts with its delivery never has an entry.
        """CREATE INDEX open_runs_waiting ON open_runs (state, handler, seq, position)
            WHERE state IN ('queued', 'retrying')""",
        # Ended attempts. The last one of an ended run also has the run's `position`. `state`
        # is empty if an older version wrote the row. `hubhooks dev` writes the last
        # two columns.
        """CREATE TABLE ended_attempts (
            seq INTEGER NOT NULL, handler TEXT NOT NULL, attempt INTEGER NOT NULL,
            started_at REAL, finished_at REAL, process INTEGER, state TEXT NOT NULL,
            error TEXT NOT NULL, traceback TEXT NOT NULL, position INTEGER,
            failures INTEGER NOT NULL, crashes INTEGER NOT NULL, output TEXT, result TEXT,
            PRIMARY KEY (seq, handler, attempt)) WITHOUT ROWID""",
        """INSERT INTO ended_attempts
            SELECT seq, handler, attempt, started_at, NULL, process, '', '', '', NULL, 0, 0,
                NULL, NULL
            FROM attempts WHERE NOT EXISTS (
                SELECT 1 FROM open_runs WHERE open_runs.seq = attempts.seq
                    AND open_runs.handler = attempts.handler AND attempts = attempt
                    AND state IN ('running', 'stuck'))""",
        """INSERT OR REPLACE INTO ended_attempts
            SELECT seq, handler, attempts, started_at, finished_at,
                (SELECT process FROM attempts WHERE attempts.seq = runs.seq
                    AND attempts.handler = runs.handler AND attempt = runs.attempts),
                state, error, traceback, position, failures, interruptions, NULL, NULL
            FROM runs WHERE finished_at IS NOT NULL""",
        # The last attempt of a run that waits for another one.
        """INSERT OR REPLACE INTO ended_attempts
            SELECT seq, handler, attempts, started_at, NULL, process, '', error, traceback, NULL,
                0, 0, NULL, NULL
            FROM open_runs WHERE state IN ('queued', 'retrying') AND attempts > 0""",
        "DROP VIEW finished",
        "DROP TABLE runs",
        "DROP TABLE attempts",
        "ALTER TABLE ended_attempts RENAME TO attempts",
        """CREATE VIEW runs AS
            SELECT seq, handler, position, state, attempts, failures, crashes, due_at, started_at,
                NULL AS finished_at, error, traceback FROM open_runs
            UNION ALL SELECT seq, handler, position, state, attempt, failures, crashes, NULL,
                started_at, finished_at, error, traceback
            FROM attempts WHERE position IS NOT NULL""",
        "ALTER TABLE deliveries RENAME COLUMN aside TO skipped",
        "ALTER TABLE deliveries RENAME COLUMN is_delivered TO is_acknowledged",
        "ALTER TABLE refusals RENAME TO rejections",
        """CREATE VIEW finished AS SELECT * FROM deliveries WHERE NOT EXISTS (
            SELECT 1 FROM open_runs WHERE open_runs.seq = deliveries.seq)""",
    ),
)


# Literals instead of parameters: SQLite uses a partial index only if the query has its condition.
IS_WAITING = "open_runs.state IN ('queued', 'retrying')"
_IS_STARTED = "seq = ? AND handler = ? AND attempts = ? AND state IN ('running', 'stuck')"

# ---- deliveries ---------------------------------------------------------------------------------

SELECT_SEQ = "SELECT seq FROM deliveries WHERE id = ?"
SELECT_KNOWN = "SELECT id FROM deliveries WHERE id IN ({})"
INSERT_DELIVERY = """
    INSERT INTO deliveries (seq, id, received_at, scope, action, repo, state, skipped, reason,
        is_replay, is_acknowledged, duplicates, headers, size)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
INSERT_BODY = "INSERT INTO bodies (seq, body) VALUES (?, ?)"
SELECT_DELIVERIES = """
    SELECT seq, id, received_at, scope, action, repo, skipped, reason, is_replay, is_acknowledged,
        duplicates, headers, size FROM deliveries
"""
SELECT_BODY = "SELECT body FROM bodies JOIN deliveries USING (seq) WHERE id = ?"
HAS_BODY = "SELECT 1 FROM bodies JOIN deliveries USING (seq) WHERE id = ?"
SELECT_IDS = "SELECT id FROM deliveries WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
# Deliveries with a text in one of these fields. A text without spaces is never in two of them.
HAS_TEXT = """
    id || ' ' || state || ' ' || scope || '.' || action || ' ' || ifnull(repo, '') || ' ' || reason
    || ' ' || ifnull((SELECT group_concat(handler || ' ' || error, ' ') FROM runs
        WHERE runs.seq = deliveries.seq), '') LIKE ? ESCAPE '\\'
"""
HAS_EVENT = "(scope = ? OR scope = ? AND action = ?)"
HAS_HANDLER = "? IN (SELECT handler FROM runs WHERE runs.seq = deliveries.seq)"
COUNT_DELIVERIES = "SELECT count(*) FROM deliveries"
COUNT_RECENT = """
    SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE received_at >= ? LIMIT ?)
"""
COUNT_STATES = "SELECT state, count(*) FROM deliveries GROUP BY state"
SELECT_OLDEST_UNFINISHED = """
    SELECT received_at FROM deliveries WHERE seq = (
        SELECT min(seq) FROM open_runs)
"""
SET_STATE = """
    UPDATE deliveries SET state = ?, is_acknowledged = is_acknowledged OR ? WHERE seq = ?
"""
SET_ACKNOWLEDGED_BY_SEQ = "UPDATE deliveries SET is_acknowledged = true WHERE seq = ?"
SET_ACKNOWLEDGED = "UPDATE deliveries SET is_acknowledged = true WHERE id = ?"
CLEAR_ACKNOWLEDGED = "UPDATE deliveries SET is_acknowledged = false WHERE id = ?"
COUNT_DUPLICATE = "UPDATE deliveries SET duplicates = duplicates + 1 WHERE id = ?"
# A run was added to a delivery that no handler matched.
CLEAR_SKIPPED = "UPDATE deliveries SET skipped = NULL WHERE seq = ?"
DELETE_DELIVERY = "DELETE FROM deliveries WHERE seq = ?"
DELETE_BODY = "DELETE FROM bodies WHERE seq = ?"
# For a store in memory.
SELECT_SIZE = "SELECT length(body) FROM bodies WHERE seq = ?"
SELECT_FINISHED = """
    SELECT finished.seq, ifnull(length(body), 0) FROM finished LEFT JOIN bodies USING (seq)
    ORDER BY ifnull((SELECT max(finished_at) FROM runs WHERE runs.seq = finished.seq), received_at),
        finished.seq
"""

# ---- runs and attempts --------------------------------------------------------------------------

INSERT_OPEN_RUN = """
    INSERT INTO open_runs (seq, handler, position, state, attempts, failures, crashes, due_at,
        started_at, process, error, traceback)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
# Queue an ended run again.
REOPEN_RUN = """
    INSERT INTO open_runs (seq, handler, position, state, attempts, failures, crashes, due_at,
        started_at, process, error, traceback)
    SELECT seq, handler, position, 'queued', attempt, failures, crashes, ?, started_at, process,
        error, traceback
    FROM attempts WHERE seq = ? AND handler = ? AND position IS NOT NULL
"""
# Its attempts stay; none is the last one any more.
CLEAR_LAST_ATTEMPT = """
    UPDATE attempts SET position = NULL WHERE seq = ? AND handler = ? AND position IS NOT NULL
"""
SET_POSITION = """
    UPDATE attempts SET position = ? WHERE seq = ? AND handler = ? AND position IS NOT NULL
"""
# A Replay is a new delivery, which keeps the attempts.
MOVE_ATTEMPTS = "UPDATE attempts SET seq = ? WHERE seq = ?"
SELECT_RUNS = """
    SELECT handler, state, attempts, failures, crashes, due_at, started_at, finished_at, error,
        traceback FROM runs WHERE seq = ? ORDER BY position
"""
SELECT_STATES = """
    SELECT state FROM open_runs WHERE seq = ?1
    UNION ALL SELECT state FROM attempts WHERE seq = ?1 AND position IS NOT NULL
"""
SELECT_STARTABLE = """
    SELECT seq, attempts + 1, is_replay, received_at, failures
    FROM deliveries JOIN open_runs USING (seq)
    WHERE handler = ? AND id = ? AND open_runs.state IN ('queued', 'retrying')
"""
START_RUN = """
    UPDATE open_runs SET state = 'running', attempts = ?, started_at = ?, process = ?, due_at = NULL
    WHERE seq = ? AND handler = ?
"""
# The statements for an ended attempt do nothing if the attempt was given up meanwhile. The first
# one is for a delivery with a single run: its state is that of the run.
SET_STATE_OF_SINGLE = f"""
    UPDATE deliveries SET state = ?, is_acknowledged = is_acknowledged OR ?
    WHERE seq = ? AND EXISTS (SELECT 1 FROM open_runs WHERE {_IS_STARTED})
"""  # noqa: S608 - constants
IS_STARTED = f"SELECT 1 FROM open_runs WHERE {_IS_STARTED}"  # noqa: S608 - constants
END_ATTEMPT = f"""
    INSERT OR REPLACE INTO attempts (seq, handler, attempt, started_at, finished_at, process, state,
        error, traceback, position, failures, crashes)
    SELECT seq, handler, attempts, started_at, ?, process, ?, ?, ?,
        CASE WHEN ? THEN position END, failures + ?, crashes + ?
    FROM open_runs WHERE {_IS_STARTED}
"""  # noqa: S608 - constants
# Only for an attempt that `END_ATTEMPT` wrote now.
SET_RECORDED = """
    UPDATE attempts SET output = ?, result = ?
    WHERE seq = ? AND handler = ? AND attempt = ? AND finished_at = ?
"""
END_RUN = f"DELETE FROM open_runs WHERE {_IS_STARTED}"  # noqa: S608 - constants
RETRY_RUN = f"""
    UPDATE open_runs SET state = 'retrying', due_at = ?, error = ?, traceback = ?,
        failures = failures + ?, crashes = crashes + ? WHERE {_IS_STARTED}
"""  # noqa: S608 - constants
SET_STUCK = f"UPDATE open_runs SET state = 'stuck' WHERE {_IS_STARTED}"  # noqa: S608 - constants
SET_OUTCOME = """
    UPDATE attempts SET state = ?, error = ? WHERE seq = ? AND handler = ? AND position IS NOT NULL
"""
REQUEUE_RUN = "UPDATE open_runs SET state = 'queued', due_at = ? WHERE seq = ? AND handler = ?"
INSERT_QUEUED_RUN = """
    INSERT INTO open_runs (seq, handler, position, state, attempts, failures, crashes, due_at,
        error, traceback)
    VALUES (?, ?, ?, 'queued', 0, 0, 0, ?, '', '')
"""
# End a waiting run without an attempt.
END_WAITING_RUN = """
    INSERT OR REPLACE INTO attempts (seq, handler, attempt, started_at, finished_at, process, state,
        error, traceback, position, failures, crashes)
    SELECT seq, handler, attempts, started_at, ?, process, ?, ?, traceback, position, failures,
        crashes
    FROM open_runs WHERE seq = ? AND handler = ?
"""
DELETE_OPEN_RUN = "DELETE FROM open_runs WHERE seq = ? AND handler = ?"
# The handlers with waiting runs in a state. One step per handler, not per run.
SELECT_HANDLERS = f"""
    WITH RECURSIVE names (handler) AS (
        SELECT * FROM (SELECT handler FROM open_runs WHERE {IS_WAITING} AND state = ?
            ORDER BY handler LIMIT 1)
        UNION ALL
        SELECT (SELECT open_runs.handler FROM open_runs WHERE {IS_WAITING} AND state = ?
            AND open_runs.handler > names.handler ORDER BY open_runs.handler LIMIT 1)
        FROM names WHERE names.handler IS NOT NULL)
    SELECT handler FROM names WHERE handler IS NOT NULL
"""  # noqa: S608 - constants
# A start in the future means that the clock was set back: do not wait for it.
SELECT_READY = f"""
    SELECT seq, position, id, handler FROM open_runs JOIN deliveries USING (seq)
    WHERE {IS_WAITING} AND open_runs.state = ? AND handler = ? AND (crashes > 0) = ?
        AND (due_at IS NULL OR due_at <= ? OR started_at > ? OR open_runs.state = 'queued')
    ORDER BY seq, position LIMIT ?
"""  # noqa: S608 - constants
SELECT_NEXT_DUE = f"""
    SELECT min(due_at) FROM open_runs WHERE {IS_WAITING} AND state = 'retrying' AND due_at > ?
"""  # noqa: S608 - constants
SELECT_WAITING_RUNS = f"SELECT seq FROM open_runs WHERE {IS_WAITING} AND handler = ? LIMIT ?"  # noqa: S608 - constants
COUNT_WAITING_RUNS = f"SELECT handler, count(*) FROM open_runs WHERE {IS_WAITING} GROUP BY handler"  # noqa: S608 - constants
# A queued run has a `due_at` only if it was replayed.
SELECT_BACKLOG = f"""
    SELECT handler, count(*), min(ifnull(due_at, received_at))
    FROM open_runs JOIN deliveries USING (seq) WHERE {IS_WAITING} GROUP BY handler
"""  # noqa: S608 - constants
# It reads all open runs every few seconds, which takes 4 ms if 100,000 wait. An index would cost
# each run more.
SELECT_STARTED_RUNS = """
    SELECT open_runs.seq, deliveries.id, handler, attempts, crashes + 1, process, pid, host,
        start_time
    FROM open_runs JOIN deliveries USING (seq) LEFT JOIN processes ON processes.id = process
    WHERE open_runs.state IN ('running', 'stuck')
"""
# The running attempt is the last one.
SELECT_ATTEMPTS = """
    SELECT handler, attempt, started_at, finished_at, state, error, traceback, process, pid, code,
        output, result
    FROM (
        SELECT handler, attempt, started_at, finished_at, state, error, traceback, process, output,
            result
        FROM attempts WHERE seq = ?1 AND started_at IS NOT NULL
        UNION ALL SELECT handler, attempts, started_at, NULL, state, '', '', process, NULL, NULL
        FROM open_runs WHERE seq = ?1 AND state IN ('running', 'stuck'))
    LEFT JOIN processes ON processes.id = process ORDER BY handler, attempt
"""
# A state of a run, the number of such runs, and the last ended one of them.
COUNT_RUNS = """
    WITH counts (handler, state, runs, ended_at, seq) AS (
        SELECT handler, state, count(*), max(finished_at), seq
        FROM attempts WHERE position IS NOT NULL GROUP BY handler, state
        UNION ALL
        SELECT handler, state, count(*), NULL, NULL FROM open_runs GROUP BY handler, state)
    SELECT handler, counts.state, runs, ended_at, id FROM counts LEFT JOIN deliveries USING (seq)
"""
DELETE_OPEN_RUNS = "DELETE FROM open_runs WHERE seq = ?"
DELETE_ATTEMPTS = "DELETE FROM attempts WHERE seq = ?"
DELETE_GROUPS = "DELETE FROM run_groups WHERE seq = ?"
# All of a delivery but its body.
DELETE_ALL_BUT_ATTEMPTS = (DELETE_OPEN_RUNS, DELETE_GROUPS, DELETE_DELIVERY)
DELETE_ALL = (*DELETE_ALL_BUT_ATTEMPTS, DELETE_ATTEMPTS)

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

_LAST_SEQ = "(SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'deliveries')"
SELECT_COUNTERS = f"SELECT generation, body_bytes, {_LAST_SEQ} FROM log"  # noqa: S608 - constants
SELECT_GENERATION = "SELECT generation FROM log"
SELECT_BODY_BYTES = "SELECT body_bytes FROM log"
SET_BODY_BYTES = "UPDATE log SET body_bytes = ?"
SUBTRACT_BODY_BYTES = "UPDATE log SET body_bytes = body_bytes - ?"
# A number that only grows, to recognise an older copy of the file.
PROGRESS = f"""
    SELECT generation + {_LAST_SEQ} FROM log
"""  # noqa: S608 - constants
COUNT_REJECTIONS = """
    INSERT INTO rejections VALUES (?, ?, ?)
    ON CONFLICT (minute, reason) DO UPDATE SET count = count + excluded.count
"""
SUM_REJECTIONS = "SELECT reason, sum(count) FROM rejections GROUP BY reason"

# ---- changes ------------------------------------------------------------------------------------

# It differs after a rejected request, and after pruning.
SELECT_COUNTS_VERSION = f"""
    SELECT {_LAST_SEQ}, body_bytes, (SELECT min(seq) FROM deliveries),
        (SELECT minute || ' ' || sum(count) FROM rejections GROUP BY minute
            ORDER BY minute DESC LIMIT 1)
    FROM log
"""  # noqa: S608 - constants
# With the id: another store at the path can have the same numbers.
SELECT_RECENT_STATES = """
    SELECT seq, id, state, is_acknowledged, duplicates FROM deliveries ORDER BY seq DESC LIMIT ?
"""
# Runs start from the oldest on. A new delivery can start before them if its handler is free.
SELECT_OPEN_RUNS = """
    SELECT * FROM (SELECT seq, handler, state, attempts, due_at FROM open_runs
        ORDER BY seq LIMIT ?1)
    UNION SELECT * FROM (SELECT seq, handler, state, attempts, due_at FROM open_runs
        ORDER BY seq DESC LIMIT ?1)
    UNION SELECT * FROM (SELECT seq, handler, state, attempts, due_at FROM open_runs
        WHERE state <> 'queued' LIMIT ?1)
"""

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
DROP_REJECTIONS = "DELETE FROM rejections WHERE minute * 60 < ?"
