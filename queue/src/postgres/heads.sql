-- Version 6.
-- The keys of what is enqueued are told by what was given. To read the new messages again by their ids cost more
-- than to write them: the planner, who knows nothing of a table that grows, read all that were pending.

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

-- As before, but one node at a time by the lock of a row: some databases have no advisory locks.
CREATE OR REPLACE FUNCTION queue_turn_slots(p_now BIGINT) RETURNS BOOLEAN LANGUAGE plpgsql AS $$
DECLARE
  v_longest BIGINT;
  v_current SMALLINT;
  v_next SMALLINT;
BEGIN
  SELECT COALESCE(max(history_ms), 0) INTO v_longest FROM queue_queues;
  SELECT slot INTO v_current FROM queue_slots WHERE current AND since + GREATEST(v_longest / 6, 60000) <= p_now FOR UPDATE SKIP LOCKED;
  IF v_current IS NULL THEN RETURN false; END IF;
  SELECT slot INTO v_next FROM queue_slots WHERE slot = (v_current + 1) % 8 AND until + v_longest <= p_now;
  IF v_next IS NULL THEN RETURN false; END IF;
  EXECUTE format('TRUNCATE queue_history_%s', v_next);
  UPDATE queue_slots SET current = (slot = v_next), until = CASE WHEN current THEN p_now ELSE until END,
    since = CASE WHEN slot = v_next THEN p_now ELSE since END WHERE slot IN (v_current, v_next);
  RETURN true;
END $$;
