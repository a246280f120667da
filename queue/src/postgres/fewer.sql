-- Version 3: the calls of the hot path do less for each message. They answer with exceptions only (what was known already,
-- what was stale), take one value for a whole column that is the same everywhere, and try the plain insert first.

DROP FUNCTION queue_enqueue;
DROP FUNCTION queue_lease;
DROP FUNCTION queue_complete;

-- A leased message, as a node reads it.
CREATE TYPE queue_leased AS (
  seq BIGINT, id UUID, key UUID, rank INTEGER, deadline BIGINT, attempt INTEGER, attempts_max INTEGER, token BIGINT, enqueued_at BIGINT,
  at BIGINT, metadata TEXT, payload BYTEA, pass BIGINT, fair BOOLEAN
);

-- Enqueues; gives the places (from 1) of the messages whose ids are known already. A column whose array has one element has
-- that value everywhere; one without an array has none.
CREATE FUNCTION queue_put(
  p_now BIGINT, p_queues BIGINT[], p_exclusive BIGINT[], p_ids UUID[], p_keys UUID[], p_ranks BIGINT[], p_deadlines BIGINT[],
  p_visible BIGINT[], p_expires BIGINT[], p_attempts BIGINT[], p_fairness TEXT[], p_steps BIGINT[], p_metadata TEXT[],
  p_payloads BYTEA[]
) RETURNS SETOF BIGINT LANGUAGE plpgsql AS $$
DECLARE
  v_base BIGINT := nextval('queue_seq') << 14;
  v_fair BOOLEAN := p_fairness IS NOT NULL;
  v_passes BIGINT[];
  v_new BIGINT[];
BEGIN
  IF v_fair THEN
    v_passes := queue_passes(p_queues, p_ranks, p_fairness, p_steps);
  END IF;
  BEGIN
    -- Nearly always all ids are new. Asking for each would cost a second look into the index and a second record in the log.
    INSERT INTO queue_messages (seq, at, enqueued_at, deadline, expires_at, pass, queue, rank, attempts_max, state, exclusive, id, key,
        fairness, metadata, payload)
      SELECT v_base + g.place, COALESCE(g.visible, p_visible[1]), p_now, COALESCE(g.deadline, p_deadlines[1]), g.expires,
        CASE WHEN v_fair THEN v_passes[g.place] ELSE 0 END, COALESCE(g.queue, p_queues[1]), COALESCE(g.rank, p_ranks[1]),
        COALESCE(g.attempts, p_attempts[1]), CASE WHEN COALESCE(g.visible, p_visible[1]) > p_now THEN 0 ELSE 1 END,
        COALESCE(g.exclusive, p_exclusive[1]) = 1, g.id, g.key, CASE WHEN v_fair THEN p_fairness[g.place] END,
        CASE WHEN g.metadata IS NOT NULL THEN string_to_array(g.metadata, E'\x1e') END, g.payload
      FROM unnest(p_queues, p_exclusive, p_ids, p_keys, p_ranks, p_deadlines, p_visible, p_expires, p_attempts, p_metadata, p_payloads)
        WITH ORDINALITY AS g(queue, exclusive, id, key, rank, deadline, visible, expires, attempts, metadata, payload, place);
  EXCEPTION WHEN unique_violation THEN
    WITH new AS (
      INSERT INTO queue_messages AS m (seq, at, enqueued_at, deadline, expires_at, pass, queue, rank, attempts_max, state, exclusive, id, key,
          fairness, metadata, payload)
      SELECT v_base + g.place, COALESCE(g.visible, p_visible[1]), p_now, COALESCE(g.deadline, p_deadlines[1]), g.expires,
        CASE WHEN v_fair THEN v_passes[g.place] ELSE 0 END, COALESCE(g.queue, p_queues[1]), COALESCE(g.rank, p_ranks[1]),
        COALESCE(g.attempts, p_attempts[1]), CASE WHEN COALESCE(g.visible, p_visible[1]) > p_now THEN 0 ELSE 1 END,
        COALESCE(g.exclusive, p_exclusive[1]) = 1, g.id, g.key, CASE WHEN v_fair THEN p_fairness[g.place] END,
        CASE WHEN g.metadata IS NOT NULL THEN string_to_array(g.metadata, E'\x1e') END, g.payload
      FROM unnest(p_queues, p_exclusive, p_ids, p_keys, p_ranks, p_deadlines, p_visible, p_expires, p_attempts, p_metadata, p_payloads)
        WITH ORDINALITY AS g(queue, exclusive, id, key, rank, deadline, visible, expires, attempts, metadata, payload, place)
      ON CONFLICT (queue, id) DO NOTHING RETURNING m.seq - v_base AS place)
    SELECT COALESCE(array_agg(new.place), '{}') INTO v_new FROM new;
  END;
  IF 1 = ANY (p_exclusive) THEN
    INSERT INTO queue_keys AS k (queue, key, held, seq, rank, pass, deadline)
      SELECT DISTINCT ON (m.queue, m.key) m.queue, m.key, false, m.seq, m.rank, m.pass, m.deadline
      FROM unnest(p_queues, p_ids) AS g(queue, id) JOIN queue_messages m ON m.queue = COALESCE(g.queue, p_queues[1]) AND m.id = g.id
      WHERE m.exclusive AND m.state = 1 AND m.seq > v_base AND m.seq <= v_base + 16383
      ORDER BY m.queue, m.key, m.rank, m.pass, m.deadline, m.seq
      ON CONFLICT (queue, key) DO UPDATE SET seq = excluded.seq, rank = excluded.rank, pass = excluded.pass, deadline = excluded.deadline
      WHERE k.seq IS NULL OR (excluded.rank, excluded.pass, excluded.deadline, excluded.seq) < (k.rank, k.pass, k.deadline, k.seq);
  END IF;
  IF v_new IS NOT NULL THEN
    RETURN QUERY SELECT place FROM generate_series(1::bigint, cardinality(p_ids)) AS g(place) WHERE NOT place = ANY (v_new);
  END IF;
END $$;

-- Leases messages of a simple queue. The consumers are one for all, or one for each place.
CREATE FUNCTION queue_take(
  p_now BIGINT, p_queue BIGINT, p_max BIGINT, p_until BIGINT, p_consumers TEXT[], p_event TEXT
) RETURNS SETOF queue_leased LANGUAGE plpgsql AS $$
DECLARE
  v_token BIGINT;
  v_tids TID[];
BEGIN
  v_tids := ARRAY(SELECT m.ctid FROM queue_messages m WHERE m.queue = p_queue AND m.state = 1
    AND (m.expires_at IS NULL OR m.expires_at > p_now) ORDER BY m.queue, m.rank, m.pass, m.deadline, m.seq LIMIT p_max FOR UPDATE SKIP LOCKED);
  IF cardinality(v_tids) = 0 THEN RETURN; END IF;
  v_token := nextval('queue_tokens');
  IF cardinality(p_consumers) = 1 THEN
    RETURN QUERY UPDATE queue_messages m SET state = 2, attempt = m.attempt + 1, token = v_token, at = p_until, consumer = p_consumers[1],
        timeline = CASE WHEN p_event = '' OR length(m.timeline) > 8192 THEN m.timeline ELSE m.timeline || p_event END
      WHERE m.ctid = ANY (v_tids) AND m.state = 1
      RETURNING m.seq, m.id, m.key, m.rank, m.deadline, m.attempt, m.attempts_max, m.token, m.enqueued_at, m.at,
        CASE WHEN m.metadata IS NOT NULL THEN array_to_string(m.metadata, E'\x1e') END, m.payload, m.pass, m.fairness IS NOT NULL;
  ELSE
    RETURN QUERY UPDATE queue_messages m SET state = 2, attempt = m.attempt + 1, token = v_token, at = p_until, consumer = t.consumer,
        timeline = CASE WHEN p_event = '' OR length(m.timeline) > 8192 THEN m.timeline ELSE m.timeline || p_event END
      FROM unnest(v_tids, p_consumers) AS t(tid, consumer)
      WHERE m.ctid = t.tid AND m.state = 1
      RETURNING m.seq, m.id, m.key, m.rank, m.deadline, m.attempt, m.attempts_max, m.token, m.enqueued_at, m.at,
        CASE WHEN m.metadata IS NOT NULL THEN array_to_string(m.metadata, E'\x1e') END, m.payload, m.pass, m.fairness IS NOT NULL;
  END IF;
END $$;

-- Completes leases; gives the places of those that were over. What was completed is gone, or kept until p_now + p_keep.
CREATE FUNCTION queue_done(p_now BIGINT, p_keep BIGINT, p_queues BIGINT[], p_ids UUID[], p_tokens BIGINT[], p_event TEXT)
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
      WHERE m.queue = COALESCE(g.queue, p_queues[1]) AND m.id = g.id AND m.token = COALESCE(g.token, p_tokens[1]) AND m.state = 2
        AND m.at + 0 > p_now
      RETURNING g.place, m.queue, m.key, m.exclusive)
    SELECT array_agg(place), array_agg(queue) FILTER (WHERE exclusive), array_agg(key) FILTER (WHERE exclusive)
      INTO v_places, v_queues, v_keys FROM done;
  ELSIF p_event <> '' THEN
    WITH gone AS (
      DELETE FROM queue_messages m USING unnest(p_queues, p_ids, p_tokens) WITH ORDINALITY AS g(queue, id, token, place)
      WHERE m.queue = COALESCE(g.queue, p_queues[1]) AND m.id = g.id AND m.token = COALESCE(g.token, p_tokens[1]) AND m.state = 2
        AND m.at + 0 > p_now
      RETURNING g.place, m.enqueued_at, m.deadline, m.queue, m.rank, m.attempt, m.attempts_max, m.id, m.key, m.exclusive, m.consumer,
        m.error, m.fairness, m.metadata, m.timeline
    ), kept AS (
      INSERT INTO queue_history (ended_at, enqueued_at, deadline, queue, rank, attempt, attempts_max, slot, state, id, key, consumer,
        error, fairness, metadata, timeline)
      SELECT p_now, enqueued_at, deadline, queue, rank, attempt, attempts_max, (SELECT queue_slot()), 3, id, key, consumer, error, fairness,
        metadata, timeline || p_event
      FROM gone WHERE timeline <> ''
    )
    SELECT array_agg(place), array_agg(queue) FILTER (WHERE exclusive), array_agg(key) FILTER (WHERE exclusive)
      INTO v_places, v_queues, v_keys FROM gone;
  ELSE
    WITH gone AS (
      DELETE FROM queue_messages m USING unnest(p_queues, p_ids, p_tokens) WITH ORDINALITY AS g(queue, id, token, place)
      WHERE m.queue = COALESCE(g.queue, p_queues[1]) AND m.id = g.id AND m.token = COALESCE(g.token, p_tokens[1]) AND m.state = 2
        AND m.at + 0 > p_now
      RETURNING g.place, m.queue, m.key, m.exclusive)
    SELECT array_agg(place), array_agg(queue) FILTER (WHERE exclusive), array_agg(key) FILTER (WHERE exclusive)
      INTO v_places, v_queues, v_keys FROM gone;
  END IF;
  IF v_keys IS NOT NULL THEN
    PERFORM queue_refresh_keys(v_queues, v_keys);
  END IF;
  IF cardinality(v_places) IS DISTINCT FROM cardinality(p_ids) THEN
    RETURN QUERY SELECT g.place FROM generate_series(1::bigint, cardinality(p_ids)) AS g(place)
      WHERE NOT g.place = ANY (COALESCE(v_places, '{}'));
  END IF;
END $$;
