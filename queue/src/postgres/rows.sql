-- Version 7.
-- The rows of what is enqueued are said once. It costs nothing: the planner puts the text of a stable SQL function that returns
-- a table where it is called, so the insert reads the arrays as before (`EXPLAIN` shows `Function Scan on g`).

-- The rows of new messages, in the order of the columns named in `queue_put`.
CREATE FUNCTION queue_rows(
  p_base BIGINT, p_now BIGINT, p_passes BIGINT[], p_queues BIGINT[], p_exclusive BIGINT[], p_ids UUID[], p_keys UUID[], p_ranks BIGINT[],
  p_deadlines BIGINT[], p_visible BIGINT[], p_expires BIGINT[], p_attempts BIGINT[], p_fairness TEXT[], p_metadata TEXT[],
  p_payloads BYTEA[]
) RETURNS TABLE (seq BIGINT, at BIGINT, enqueued_at BIGINT, deadline BIGINT, expires_at BIGINT, pass BIGINT, queue BIGINT, rank BIGINT,
  attempts_max BIGINT, state INTEGER, exclusive BOOLEAN, id UUID, key UUID, fairness TEXT, metadata TEXT[], payload BYTEA)
LANGUAGE sql STABLE AS $$
  SELECT p_base + g.place, COALESCE(g.visible, p_visible[1]), p_now, COALESCE(g.deadline, p_deadlines[1]), g.expires,
    CASE WHEN p_fairness IS NOT NULL THEN p_passes[g.place] ELSE 0 END, COALESCE(g.queue, p_queues[1]), COALESCE(g.rank, p_ranks[1]),
    COALESCE(g.attempts, p_attempts[1]), CASE WHEN COALESCE(g.visible, p_visible[1]) > p_now THEN 0 ELSE 1 END,
    COALESCE(g.exclusive, p_exclusive[1]) = 1, g.id, g.key, CASE WHEN p_fairness IS NOT NULL THEN p_fairness[g.place] END,
    CASE WHEN g.metadata IS NOT NULL THEN string_to_array(g.metadata, E'\x1e') END, g.payload
  FROM unnest(p_queues, p_exclusive, p_ids, p_keys, p_ranks, p_deadlines, p_visible, p_expires, p_attempts, p_metadata, p_payloads)
    WITH ORDINALITY AS g(queue, exclusive, id, key, rank, deadline, visible, expires, attempts, metadata, payload, place)
$$;

-- Enqueues; gives the places (from 1) of the messages whose ids are known already. A column whose array has one element has
-- that value everywhere; one without an array has none.
CREATE OR REPLACE FUNCTION queue_put(
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
      SELECT * FROM queue_rows(v_base, p_now, v_passes, p_queues, p_exclusive, p_ids, p_keys, p_ranks, p_deadlines, p_visible, p_expires,
        p_attempts, p_fairness, p_metadata, p_payloads);
  EXCEPTION WHEN unique_violation THEN
    WITH new AS (
      INSERT INTO queue_messages AS m (seq, at, enqueued_at, deadline, expires_at, pass, queue, rank, attempts_max, state, exclusive, id,
          key, fairness, metadata, payload)
        SELECT * FROM queue_rows(v_base, p_now, v_passes, p_queues, p_exclusive, p_ids, p_keys, p_ranks, p_deadlines, p_visible, p_expires,
          p_attempts, p_fairness, p_metadata, p_payloads)
      ON CONFLICT (queue, id) DO NOTHING RETURNING m.seq - v_base AS place)
    SELECT COALESCE(array_agg(new.place), '{}') INTO v_new FROM new;
  END;
  IF 1 = ANY (p_exclusive) THEN
    INSERT INTO queue_keys AS k (queue, key, held, seq, rank, pass, deadline)
      SELECT DISTINCT ON (m.queue, m.key) m.queue, m.key, false, v_base + m.place, m.rank, m.pass, m.deadline
      FROM (SELECT COALESCE(g.queue, p_queues[1]) AS queue, g.key, COALESCE(g.rank, p_ranks[1]) AS rank,
          CASE WHEN v_fair THEN v_passes[g.place] ELSE 0 END AS pass, COALESCE(g.deadline, p_deadlines[1]) AS deadline, g.place
        FROM unnest(p_queues, p_exclusive, p_keys, p_ranks, p_deadlines, p_visible)
          WITH ORDINALITY AS g(queue, exclusive, key, rank, deadline, visible, place)
        WHERE COALESCE(g.exclusive, p_exclusive[1]) = 1 AND COALESCE(g.visible, p_visible[1]) <= p_now
          AND (v_new IS NULL OR g.place = ANY (v_new))) m
      ORDER BY m.queue, m.key, m.rank, m.pass, m.deadline, m.place
      ON CONFLICT (queue, key) DO UPDATE SET seq = excluded.seq, rank = excluded.rank, pass = excluded.pass, deadline = excluded.deadline
      WHERE k.seq IS NULL OR (excluded.rank, excluded.pass, excluded.deadline, excluded.seq) < (k.rank, k.pass, k.deadline, k.seq);
  END IF;
  IF v_new IS NOT NULL THEN
    RETURN QUERY SELECT place FROM generate_series(1::bigint, cardinality(p_ids)) AS g(place) WHERE NOT place = ANY (v_new);
  END IF;
END $$;
