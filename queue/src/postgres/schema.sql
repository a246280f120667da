-- The queue on PostgreSQL. Everything that must hold over all nodes is said here; instants are the callers' (p_now).
-- States: 0 invisible, 1 pending, 2 running, 3 completed, 4 canceled, 5 errored, 6 expired.

-- One number for each batch of enqueued messages; a message's place in its batch are the lower 14 bits of its seq.
CREATE SEQUENCE queue_seq;
CREATE SEQUENCE queue_tokens;

CREATE TABLE queue_queues (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  settings TEXT NOT NULL,
  keep_ended_ms BIGINT NOT NULL,
  history_ms BIGINT NOT NULL
);

CREATE TABLE queue_messages (
  seq BIGINT NOT NULL,
  at BIGINT NOT NULL,
  enqueued_at BIGINT NOT NULL,
  deadline BIGINT NOT NULL,
  expires_at BIGINT,
  token BIGINT NOT NULL DEFAULT 0,
  pass BIGINT NOT NULL DEFAULT 0,
  queue INTEGER NOT NULL,
  rank INTEGER NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  attempts_max INTEGER NOT NULL,
  state SMALLINT NOT NULL,
  exclusive BOOLEAN NOT NULL,
  id UUID NOT NULL,
  key UUID,
  consumer TEXT,
  error TEXT,
  fairness TEXT,
  metadata TEXT[],
  timeline TEXT NOT NULL DEFAULT '',
  payload BYTEA NOT NULL,
  PRIMARY KEY (queue, id)
) WITH (
  -- Every lease leaves a dead row: look at the table often, without resting between pages.
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
  autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_analyze_scale_factor = 0.2, toast.autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE queue_messages ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX queue_order ON queue_messages (queue, rank, pass, deadline, seq) WHERE state = 1;
CREATE INDEX queue_due ON queue_messages (at) WHERE state <> 1;
CREATE INDEX queue_mortal ON queue_messages (expires_at) WHERE expires_at IS NOT NULL AND state < 2;
CREATE INDEX queue_of_key ON queue_messages (queue, key, state, rank, pass, deadline, seq) WHERE exclusive AND state IN (1, 2);
CREATE INDEX queue_pairs ON queue_messages USING gin (metadata) WHERE metadata IS NOT NULL;

-- The keys of exclusive queues: whether a lease holds them, and their first pending message.
CREATE TABLE queue_keys (
  seq BIGINT,
  deadline BIGINT,
  pass BIGINT,
  queue INTEGER NOT NULL,
  rank INTEGER,
  held BOOLEAN NOT NULL,
  key UUID NOT NULL,
  PRIMARY KEY (queue, key)
) WITH (
  fillfactor = 80,
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX queue_free_keys ON queue_keys (queue, rank, pass, deadline, seq) WHERE NOT held AND seq IS NOT NULL;

-- The virtual time of each fairness key: where its next message stands. The empty name is the queue's own time.
CREATE TABLE queue_lanes (
  queue INTEGER NOT NULL,
  rank INTEGER NOT NULL,
  fairness TEXT NOT NULL,
  pass BIGINT NOT NULL,
  PRIMARY KEY (queue, rank, fairness)
) WITH (fillfactor = 50, autovacuum_vacuum_cost_delay = 0);

-- What is left of ended messages. Rows go to the slot that is in use; a slot whose rows are too old is emptied whole.
CREATE TABLE queue_history (
  ended_at BIGINT NOT NULL,
  enqueued_at BIGINT NOT NULL,
  deadline BIGINT NOT NULL,
  queue INTEGER NOT NULL,
  rank INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  attempts_max INTEGER NOT NULL,
  slot SMALLINT NOT NULL,
  state SMALLINT NOT NULL,
  id UUID NOT NULL,
  key UUID,
  consumer TEXT,
  error TEXT,
  fairness TEXT,
  metadata TEXT[],
  timeline TEXT NOT NULL
) PARTITION BY LIST (slot);
CREATE TABLE queue_history_0 PARTITION OF queue_history FOR VALUES IN (0);
CREATE TABLE queue_history_1 PARTITION OF queue_history FOR VALUES IN (1);
CREATE TABLE queue_history_2 PARTITION OF queue_history FOR VALUES IN (2);
CREATE TABLE queue_history_3 PARTITION OF queue_history FOR VALUES IN (3);
CREATE TABLE queue_history_4 PARTITION OF queue_history FOR VALUES IN (4);
CREATE TABLE queue_history_5 PARTITION OF queue_history FOR VALUES IN (5);
CREATE TABLE queue_history_6 PARTITION OF queue_history FOR VALUES IN (6);
CREATE TABLE queue_history_7 PARTITION OF queue_history FOR VALUES IN (7);
CREATE INDEX queue_history_id ON queue_history (id);
-- Which slot is written, since when; and when each of the others was last written.
CREATE TABLE queue_slots (slot SMALLINT PRIMARY KEY, current BOOLEAN NOT NULL, since BIGINT NOT NULL, until BIGINT NOT NULL);
INSERT INTO queue_slots SELECT slot, slot = 0, 0, 0 FROM generate_series(0, 7) AS slot;

CREATE FUNCTION queue_slot() RETURNS SMALLINT STABLE LANGUAGE sql AS 'SELECT slot FROM queue_slots WHERE current';

-- Writes the next slot when the current one has been written for an eighth of the longest history, once the next is old.
CREATE FUNCTION queue_turn_slots(p_now BIGINT) RETURNS BOOLEAN LANGUAGE plpgsql AS $$
DECLARE
  v_longest BIGINT;
  v_current SMALLINT;
  v_next SMALLINT;
BEGIN
  IF NOT pg_try_advisory_xact_lock(7263548001) THEN RETURN false; END IF;
  SELECT COALESCE(max(history_ms), 0) INTO v_longest FROM queue_queues;
  SELECT slot INTO v_current FROM queue_slots WHERE current AND since + GREATEST(v_longest / 6, 60000) <= p_now;
  IF v_current IS NULL THEN RETURN false; END IF;
  SELECT slot INTO v_next FROM queue_slots WHERE slot = (v_current + 1) % 8 AND until + v_longest <= p_now;
  IF v_next IS NULL THEN RETURN false; END IF;
  EXECUTE format('TRUNCATE queue_history_%s', v_next);
  UPDATE queue_slots SET current = (slot = v_next), until = CASE WHEN current THEN p_now ELSE until END,
    since = CASE WHEN slot = v_next THEN p_now ELSE since END WHERE slot IN (v_current, v_next);
  RETURN true;
END $$;

-- Says of keys what their messages say. Whoever changes messages of a key calls this last, in the same transaction.
CREATE FUNCTION queue_refresh_keys(p_queues BIGINT[], p_keys UUID[]) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
  IF p_keys IS NULL OR cardinality(p_keys) = 0 THEN RETURN; END IF;
  -- Makes what is missing and locks the rest, in one order for everybody.
  INSERT INTO queue_keys (queue, key, held) SELECT DISTINCT g.queue, g.key, false FROM unnest(p_queues, p_keys) AS g(queue, key)
    ORDER BY 1, 2 ON CONFLICT (queue, key) DO UPDATE SET held = queue_keys.held;
  UPDATE queue_keys k SET seq = h.seq, rank = h.rank, pass = h.pass, deadline = h.deadline,
      held = EXISTS (SELECT 1 FROM queue_messages r WHERE r.queue = k.queue AND r.key = k.key AND r.exclusive AND r.state = 2 AND r.state IN (1, 2))
    FROM (SELECT DISTINCT g.queue, g.key FROM unnest(p_queues, p_keys) AS g(queue, key)) g
    LEFT JOIN LATERAL (SELECT m.seq, m.rank, m.pass, m.deadline FROM queue_messages m
      WHERE m.queue = g.queue AND m.key = g.key AND m.exclusive AND m.state = 1 AND m.state IN (1, 2)
      ORDER BY m.rank, m.pass, m.deadline, m.seq LIMIT 1) h ON true
    WHERE k.queue = g.queue AND k.key = g.key;
  DELETE FROM queue_keys k USING unnest(p_queues, p_keys) AS g(queue, key)
    WHERE k.queue = g.queue AND k.key = g.key AND NOT k.held AND k.seq IS NULL;
END $$;

-- Gives the places (from 1) of the messages that are new.
CREATE FUNCTION queue_enqueue(
  p_now BIGINT, p_queues BIGINT[], p_exclusive BIGINT[], p_ids UUID[], p_keys UUID[], p_ranks BIGINT[], p_deadlines BIGINT[],
  p_visible BIGINT[], p_expires BIGINT[], p_attempts BIGINT[], p_fairness TEXT[], p_steps BIGINT[], p_metadata TEXT[],
  p_payloads BYTEA[]
) RETURNS SETOF BIGINT LANGUAGE plpgsql AS $$
DECLARE
  v_base BIGINT := nextval('queue_seq') << 14;
  v_fair BOOLEAN := p_fairness IS NOT NULL;
  v_keyed BOOLEAN := 1 = ANY (p_exclusive);
  v_passes BIGINT[];
BEGIN
  IF v_fair THEN
    v_passes := queue_passes(p_queues, p_ranks, p_fairness, p_steps);
  END IF;
  RETURN QUERY INSERT INTO queue_messages AS m (seq, at, enqueued_at, deadline, expires_at, pass, queue, rank, attempts_max, state,
      exclusive, id, key, fairness, metadata, payload)
    SELECT v_base + g.place, g.visible, p_now, g.deadline, g.expires, CASE WHEN v_fair THEN v_passes[g.place] ELSE 0 END, g.queue, g.rank,
      g.attempts, CASE WHEN g.visible > p_now THEN 0 ELSE 1 END, g.exclusive = 1, g.id, g.key, CASE WHEN v_fair THEN p_fairness[g.place] END,
      string_to_array(g.metadata, E'\x1e'), g.payload
    FROM unnest(p_queues, p_exclusive, p_ids, p_keys, p_ranks, p_deadlines, p_visible, p_expires, p_attempts, p_metadata, p_payloads)
      WITH ORDINALITY AS g(queue, exclusive, id, key, rank, deadline, visible, expires, attempts, metadata, payload, place)
    ON CONFLICT (queue, id) DO NOTHING
    RETURNING m.seq - v_base;
  IF v_keyed THEN
    INSERT INTO queue_keys AS k (queue, key, held, seq, rank, pass, deadline)
      SELECT DISTINCT ON (m.queue, m.key) m.queue, m.key, false, m.seq, m.rank, m.pass, m.deadline
      FROM unnest(p_queues, p_ids) AS g(queue, id) JOIN queue_messages m ON m.queue = g.queue AND m.id = g.id
      WHERE m.exclusive AND m.state = 1 AND m.seq > v_base AND m.seq <= v_base + 16383
      ORDER BY m.queue, m.key, m.rank, m.pass, m.deadline, m.seq
      ON CONFLICT (queue, key) DO UPDATE SET seq = excluded.seq, rank = excluded.rank, pass = excluded.pass, deadline = excluded.deadline
      WHERE k.seq IS NULL OR (excluded.rank, excluded.pass, excluded.deadline, excluded.seq) < (k.rank, k.pass, k.deadline, k.seq);
  END IF;
END $$;

-- Where messages stand in virtual time: one step behind the one before of their key, or where the queue is now.
CREATE FUNCTION queue_passes(p_queues BIGINT[], p_ranks BIGINT[], p_fairness TEXT[], p_steps BIGINT[]) RETURNS BIGINT[] LANGUAGE plpgsql AS $$
DECLARE
  v_passes BIGINT[];
BEGIN
  INSERT INTO queue_lanes (queue, rank, fairness, pass) SELECT DISTINCT g.queue, g.rank >> 16, COALESCE(g.fairness, ''), 0
    FROM unnest(p_queues, p_ranks, p_fairness) AS g(queue, rank, fairness)
    UNION SELECT DISTINCT g.queue, g.rank >> 16, '', 0 FROM unnest(p_queues, p_ranks) AS g(queue, rank)
    ORDER BY 1, 2, 3 ON CONFLICT (queue, rank, fairness) DO UPDATE SET pass = queue_lanes.pass;
  WITH given AS MATERIALIZED (
    SELECT g.queue, g.rank >> 16 AS rank, COALESCE(g.fairness, '') AS fairness, g.place,
      sum(g.step) OVER (PARTITION BY g.queue, g.rank >> 16, g.fairness ORDER BY g.place) AS behind
    FROM unnest(p_queues, p_ranks, p_fairness, p_steps) WITH ORDINALITY AS g(queue, rank, fairness, step, place)
  ), placed AS MATERIALIZED (
    SELECT given.*, CASE WHEN given.fairness = '' THEN own.pass ELSE GREATEST(lane.pass, own.pass) + given.behind END AS pass
    FROM given
    JOIN queue_lanes lane ON lane.queue = given.queue AND lane.rank = given.rank AND lane.fairness = given.fairness
    JOIN queue_lanes own ON own.queue = given.queue AND own.rank = given.rank AND own.fairness = ''
  ), ahead AS (
    UPDATE queue_lanes lane SET pass = p.pass
    FROM (SELECT queue, rank, fairness, max(pass) AS pass FROM placed WHERE fairness <> '' GROUP BY 1, 2, 3) p
    WHERE lane.queue = p.queue AND lane.rank = p.rank AND lane.fairness = p.fairness
  )
  SELECT array_agg(pass ORDER BY place) INTO v_passes FROM placed;
  RETURN v_passes;
END $$;

-- The queue's own time follows what is leased.
CREATE FUNCTION queue_pass_on(p_queue BIGINT, p_rank BIGINT, p_pass BIGINT) RETURNS VOID LANGUAGE sql AS $$
  UPDATE queue_lanes SET pass = p_pass WHERE queue = p_queue AND rank = p_rank AND fairness = '' AND pass < p_pass
$$;

-- Leases messages of a simple queue. The consumers are one for all, or one for each place. What has expired and is not yet
-- swept is passed over, here and below.
CREATE FUNCTION queue_lease(
  p_now BIGINT, p_queue BIGINT, p_max BIGINT, p_until BIGINT, p_consumers TEXT[], p_event TEXT
) RETURNS SETOF queue_messages LANGUAGE plpgsql AS $$
DECLARE
  v_token BIGINT := nextval('queue_tokens');
  v_tids TID[];
BEGIN
  v_tids := ARRAY(SELECT m.ctid FROM queue_messages m WHERE m.queue = p_queue AND m.state = 1
    AND (m.expires_at IS NULL OR m.expires_at > p_now) ORDER BY m.queue, m.rank, m.pass, m.deadline, m.seq LIMIT p_max FOR UPDATE SKIP LOCKED);
  IF cardinality(v_tids) = 0 THEN RETURN; END IF;
  RETURN QUERY UPDATE queue_messages m SET state = 2, attempt = m.attempt + 1, token = v_token, at = p_until,
      consumer = CASE WHEN cardinality(p_consumers) = 1 THEN p_consumers[1] ELSE p_consumers[array_position(v_tids, m.ctid)] END,
      timeline = CASE WHEN p_event = '' OR length(m.timeline) > 8192 THEN m.timeline ELSE m.timeline || p_event END
    WHERE m.ctid = ANY (v_tids) AND m.state = 1 RETURNING m.*;
END $$;

-- The same for messages that have all of these pairs.
CREATE FUNCTION queue_lease_matching(
  p_now BIGINT, p_queue BIGINT, p_max BIGINT, p_until BIGINT, p_consumers TEXT[], p_event TEXT, p_pairs TEXT
) RETURNS SETOF queue_messages LANGUAGE plpgsql AS $$
DECLARE
  v_token BIGINT := nextval('queue_tokens');
  v_tids TID[];
BEGIN
  v_tids := ARRAY(SELECT m.ctid FROM queue_messages m WHERE m.metadata @> string_to_array(p_pairs, E'\x1e') AND m.metadata IS NOT NULL
    AND m.queue = p_queue AND m.state = 1 AND (m.expires_at IS NULL OR m.expires_at > p_now) ORDER BY m.rank, m.pass, m.deadline, m.seq LIMIT p_max FOR UPDATE SKIP LOCKED);
  IF cardinality(v_tids) = 0 THEN RETURN; END IF;
  RETURN QUERY UPDATE queue_messages m SET state = 2, attempt = m.attempt + 1, token = v_token, at = p_until, consumer = p_consumers[1],
      timeline = CASE WHEN p_event = '' OR length(m.timeline) > 8192 THEN m.timeline ELSE m.timeline || p_event END
    WHERE m.ctid = ANY (v_tids) AND m.state = 1 RETURNING m.*;
END $$;

-- Leases free keys of an exclusive queue, each with its first pending messages. A held key is not in the index.
CREATE FUNCTION queue_lease_keys(
  p_now BIGINT, p_queue BIGINT, p_max BIGINT, p_per_key BIGINT, p_until BIGINT, p_consumer TEXT, p_event TEXT, p_pairs TEXT
) RETURNS SETOF queue_messages LANGUAGE plpgsql AS $$
DECLARE
  v_token BIGINT := nextval('queue_tokens');
  v_keys UUID[];
BEGIN
  IF p_pairs IS NULL THEN
    v_keys := ARRAY(SELECT k.key FROM queue_keys k WHERE k.queue = p_queue AND NOT k.held AND k.seq IS NOT NULL
      ORDER BY k.queue, k.rank, k.pass, k.deadline, k.seq LIMIT p_max FOR UPDATE SKIP LOCKED);
  ELSE
    v_keys := ARRAY(SELECT k.key FROM queue_messages m JOIN queue_keys k ON k.queue = m.queue AND k.key = m.key AND k.seq = m.seq
      WHERE m.metadata @> string_to_array(p_pairs, E'\x1e') AND m.metadata IS NOT NULL AND m.queue = p_queue AND m.state = 1 AND NOT k.held
      ORDER BY k.rank, k.pass, k.deadline, k.seq LIMIT p_max FOR UPDATE OF k SKIP LOCKED);
  END IF;
  IF cardinality(v_keys) = 0 THEN RETURN; END IF;
  RETURN QUERY UPDATE queue_messages m SET state = 2, attempt = m.attempt + 1, token = v_token, at = p_until, consumer = p_consumer,
      timeline = CASE WHEN p_event = '' OR length(m.timeline) > 8192 THEN m.timeline ELSE m.timeline || p_event END
    WHERE m.ctid = ANY (ARRAY(SELECT p.tid FROM unnest(v_keys) AS k(key) CROSS JOIN LATERAL (
      SELECT n.ctid AS tid FROM queue_messages n WHERE n.queue = p_queue AND n.key = k.key AND n.exclusive AND n.state = 1 AND n.state IN (1, 2)
      AND (n.expires_at IS NULL OR n.expires_at > p_now) ORDER BY n.rank, n.pass, n.deadline, n.seq LIMIT p_per_key FOR UPDATE SKIP LOCKED) p)) AND m.state = 1
    RETURNING m.*;
  PERFORM queue_refresh_keys(array_fill(p_queue, ARRAY[cardinality(v_keys)]), v_keys);
END $$;

-- Leases are found by their ids alone: `at + 0` keeps the index of what is due out of the plan, which an empty table's
-- statistics would prefer and a full one would scan for every lease.

-- Completes leases; gives the places of those that stood. What was completed is gone, or kept until p_now + p_keep.
CREATE FUNCTION queue_complete(p_now BIGINT, p_keep BIGINT, p_queues BIGINT[], p_ids UUID[], p_tokens BIGINT[], p_event TEXT)
RETURNS SETOF BIGINT LANGUAGE plpgsql AS $$
DECLARE
  v_places BIGINT[];
  v_queues BIGINT[];
  v_keys UUID[];
BEGIN
  IF p_keep > 0 THEN
    WITH done AS (
      UPDATE queue_messages m SET state = 3, at = p_now + p_keep, timeline = m.timeline || p_event
      FROM unnest(p_queues, p_ids, p_tokens) WITH ORDINALITY AS g(queue, id, token, place)
      WHERE m.queue = g.queue AND m.id = g.id AND m.token = g.token AND m.state = 2 AND m.at + 0 > p_now
      RETURNING g.place, m.queue, m.key, m.exclusive)
    SELECT array_agg(place), array_agg(queue) FILTER (WHERE exclusive), array_agg(key) FILTER (WHERE exclusive)
      INTO v_places, v_queues, v_keys FROM done;
  ELSE
    WITH gone AS (
      DELETE FROM queue_messages m USING unnest(p_queues, p_ids, p_tokens) WITH ORDINALITY AS g(queue, id, token, place)
      WHERE m.queue = g.queue AND m.id = g.id AND m.token = g.token AND m.state = 2 AND m.at + 0 > p_now
      RETURNING g.place, m.enqueued_at, m.deadline, m.queue, m.rank, m.attempt, m.attempts_max, m.id, m.key, m.exclusive, m.consumer,
        m.error, m.fairness, m.metadata, m.timeline
    ), kept AS (
      INSERT INTO queue_history (ended_at, enqueued_at, deadline, queue, rank, attempt, attempts_max, slot, state, id, key, consumer,
        error, fairness, metadata, timeline)
      SELECT p_now, enqueued_at, deadline, queue, rank, attempt, attempts_max, (SELECT queue_slot()), 3, id, key, consumer, error, fairness,
        metadata, timeline || p_event
      FROM gone WHERE timeline <> '' AND p_event <> ''
    )
    SELECT array_agg(place), array_agg(queue) FILTER (WHERE exclusive), array_agg(key) FILTER (WHERE exclusive)
      INTO v_places, v_queues, v_keys FROM gone;
  END IF;
  PERFORM queue_refresh_keys(v_queues, v_keys);
  RETURN QUERY SELECT unnest(v_places);
END $$;

-- Fails (p_kinds 1: may be tried again, 2: for good) or releases (0) leases. Gives place and new state.
CREATE FUNCTION queue_settle(
  p_now BIGINT, p_kinds BIGINT[], p_visible BIGINT[], p_queues BIGINT[], p_ids UUID[], p_tokens BIGINT[], p_errors TEXT[], p_events TEXT[]
) RETURNS TABLE (place BIGINT, became SMALLINT) LANGUAGE plpgsql AS $$
DECLARE
  v_places BIGINT[];
  v_states SMALLINT[];
  v_queues BIGINT[];
  v_keys UUID[];
BEGIN
  WITH done AS (
    UPDATE queue_messages m SET
      state = CASE WHEN g.kind = 0 THEN 1 WHEN g.kind = 2 OR m.attempt >= m.attempts_max THEN 5 WHEN g.visible > p_now THEN 0 ELSE 1 END,
      at = CASE WHEN g.kind = 0 THEN 0 WHEN g.kind = 2 OR m.attempt >= m.attempts_max THEN p_now + q.keep_ended_ms ELSE g.visible END,
      attempt = CASE WHEN g.kind = 0 THEN m.attempt - 1 ELSE m.attempt END,
      error = CASE WHEN g.kind = 0 THEN m.error ELSE g.error END,
      token = 0,
      timeline = CASE WHEN q.history_ms = 0 OR length(m.timeline) > 8192 THEN m.timeline ELSE m.timeline || g.event END
    FROM unnest(p_kinds, p_visible, p_queues, p_ids, p_tokens, p_errors, p_events) WITH ORDINALITY
      AS g(kind, visible, queue, id, token, error, event, place) JOIN queue_queues q ON q.id = g.queue
    WHERE m.queue = g.queue AND m.id = g.id AND m.token = g.token AND m.state = 2 AND m.at + 0 > p_now
    RETURNING g.place, m.state, m.queue, m.key, m.exclusive)
  SELECT array_agg(d.place), array_agg(d.state), array_agg(d.queue) FILTER (WHERE d.exclusive), array_agg(d.key) FILTER (WHERE d.exclusive)
    INTO v_places, v_states, v_queues, v_keys FROM done d;
  PERFORM queue_refresh_keys(v_queues, v_keys);
  RETURN QUERY SELECT * FROM unnest(v_places, v_states);
END $$;

-- Has leases hold until p_until; gives the places of those that stood.
CREATE FUNCTION queue_extend(p_now BIGINT, p_until BIGINT, p_queues BIGINT[], p_ids UUID[], p_tokens BIGINT[], p_event TEXT)
RETURNS SETOF BIGINT LANGUAGE sql AS $$
  UPDATE queue_messages m SET at = p_until,
    timeline = CASE WHEN q.history_ms = 0 OR length(m.timeline) > 8192 THEN m.timeline ELSE m.timeline || p_event END
  FROM unnest(p_queues, p_ids, p_tokens) WITH ORDINALITY AS g(queue, id, token, place) JOIN queue_queues q ON q.id = g.queue
  WHERE m.queue = g.queue AND m.id = g.id AND m.token = g.token AND m.state = 2 AND m.at + 0 > p_now
  RETURNING g.place
$$;

-- Changes messages by id: 1 cancel, 2 redrive, 3 reprioritize. Gives place and the state each was found in; those whose
-- state does not allow it stay as they are.
CREATE FUNCTION queue_change(
  p_now BIGINT, p_what BIGINT, p_queue BIGINT, p_ids UUID[], p_ranks BIGINT[], p_deadlines BIGINT[], p_event TEXT
) RETURNS TABLE (place BIGINT, was SMALLINT) LANGUAGE plpgsql AS $$
DECLARE
  v_tids TID[];
  v_places BIGINT[];
  v_states SMALLINT[];
  v_keys UUID[];
BEGIN
  SELECT array_agg(l.tid), array_agg(l.place), array_agg(l.state), array_agg(l.key) FILTER (WHERE l.exclusive)
    INTO v_tids, v_places, v_states, v_keys
    FROM (SELECT m.ctid AS tid, g.place, m.state, m.key, m.exclusive FROM unnest(p_ids) WITH ORDINALITY AS g(id, place)
      JOIN queue_messages m ON m.queue = p_queue AND m.id = g.id ORDER BY m.id FOR UPDATE OF m) l;
  IF v_tids IS NULL THEN RETURN; END IF;
  UPDATE queue_messages m SET
    state = CASE p_what WHEN 1 THEN 4 WHEN 2 THEN 1 ELSE m.state END,
    at = CASE p_what WHEN 1 THEN p_now + q.keep_ended_ms WHEN 2 THEN 0 ELSE m.at END,
    attempt = CASE p_what WHEN 2 THEN 0 ELSE m.attempt END,
    expires_at = CASE p_what WHEN 2 THEN NULL ELSE m.expires_at END,
    token = CASE p_what WHEN 1 THEN 0 ELSE m.token END,
    rank = CASE p_what WHEN 3 THEN p_ranks[v_places[array_position(v_tids, m.ctid)]] ELSE m.rank END,
    deadline = CASE p_what WHEN 3 THEN p_deadlines[v_places[array_position(v_tids, m.ctid)]] ELSE m.deadline END,
    timeline = CASE WHEN q.history_ms = 0 OR length(m.timeline) > 8192 THEN m.timeline ELSE m.timeline || p_event END
  FROM queue_queues q
  WHERE q.id = p_queue AND m.ctid = ANY (v_tids)
    AND CASE p_what WHEN 1 THEN m.state IN (0, 1, 2) WHEN 2 THEN m.state IN (5, 6) ELSE m.state IN (0, 1) END;
  PERFORM queue_refresh_keys(array_fill(p_queue, ARRAY[cardinality(v_keys)]), v_keys) WHERE cardinality(v_keys) > 0;
  RETURN QUERY SELECT * FROM unnest(v_places, v_states);
END $$;

-- What has become due: messages become visible, leases lapse, messages expire, ended ones are forgotten. Gives each queue
-- that got something to lease, and the number of rows looked at as queue 0.
CREATE FUNCTION queue_sweep(p_now BIGINT, p_max BIGINT) RETURNS TABLE (woken BIGINT, messages BIGINT) LANGUAGE plpgsql AS $$
DECLARE
  v_due TID[];
  v_mortal TID[];
  v_queues BIGINT[];
  v_keys UUID[];
BEGIN
  v_due := ARRAY(SELECT m.ctid FROM queue_messages m WHERE m.at <= p_now AND m.state <> 1 ORDER BY m.at LIMIT p_max FOR UPDATE SKIP LOCKED);
  v_mortal := ARRAY(SELECT m.ctid FROM queue_messages m WHERE m.expires_at <= p_now AND m.expires_at IS NOT NULL AND m.state < 2
    ORDER BY m.expires_at LIMIT p_max FOR UPDATE SKIP LOCKED);
  IF cardinality(v_due) + cardinality(v_mortal) = 0 THEN RETURN; END IF;
  WITH gone AS (
    DELETE FROM queue_messages m WHERE m.ctid = ANY (v_due) AND m.state > 2
    RETURNING m.at, m.enqueued_at, m.deadline, m.queue, m.rank, m.attempt, m.attempts_max, m.state, m.id, m.key, m.consumer, m.error,
      m.fairness, m.metadata, m.timeline)
  INSERT INTO queue_history (ended_at, enqueued_at, deadline, queue, rank, attempt, attempts_max, slot, state, id, key, consumer, error,
      fairness, metadata, timeline)
    SELECT g.at, g.enqueued_at, g.deadline, g.queue, g.rank, g.attempt, g.attempts_max, (SELECT queue_slot()), g.state, g.id, g.key,
      g.consumer, g.error, g.fairness, g.metadata, g.timeline
    FROM gone g JOIN queue_queues q ON q.id = g.queue WHERE q.history_ms > 0;
  WITH done AS (
    UPDATE queue_messages m SET
      state = CASE WHEN m.state < 2 AND m.expires_at <= p_now THEN 6 WHEN m.state = 0 THEN 1 WHEN m.attempt >= m.attempts_max THEN 5 ELSE 1 END,
      at = CASE WHEN (m.state < 2 AND m.expires_at <= p_now) OR (m.state = 2 AND m.attempt >= m.attempts_max) THEN p_now + q.keep_ended_ms ELSE 0 END,
      error = CASE WHEN m.state = 2 THEN COALESCE(m.error, 'the lease ran out') ELSE m.error END,
      token = 0,
      timeline = CASE WHEN q.history_ms = 0 OR length(m.timeline) > 8192 THEN m.timeline ELSE m.timeline || E'\x1e' || p_now
        || CASE WHEN m.state < 2 AND m.expires_at <= p_now THEN 'X' WHEN m.state = 0 THEN 'V' ELSE 'T' END END
    FROM queue_queues q
    WHERE q.id = m.queue AND (m.ctid = ANY (v_due) OR m.ctid = ANY (v_mortal)) AND m.state <= 2
      AND (m.state <> 1 OR m.expires_at <= p_now)
    RETURNING m.queue, m.key, m.exclusive)
  SELECT array_agg(d.queue), array_agg(CASE WHEN d.exclusive THEN d.key END) INTO v_queues, v_keys FROM done d;
  IF v_queues IS NOT NULL THEN
    PERFORM queue_refresh_keys(array_agg(g.queue), array_agg(g.key)) FROM unnest(v_queues, v_keys) AS g(queue, key) WHERE g.key IS NOT NULL;
    RETURN QUERY SELECT g.queue, count(*) FROM unnest(v_queues) AS g(queue) GROUP BY 1;
  END IF;
  RETURN QUERY SELECT 0::bigint, (cardinality(v_due) + cardinality(v_mortal))::bigint;
END $$;
