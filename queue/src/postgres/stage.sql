-- Version 4: what rides in a caller's transaction. Many messages or leases travel as one text, so that they are one call.

CREATE FUNCTION queue_stage_put(p_batch JSON) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
  PERFORM queue_put((p_batch->>'now')::bigint, array_agg(x.queue ORDER BY x.place), array_agg(x.exclusive ORDER BY x.place),
      array_agg(x.id ORDER BY x.place), array_agg(x.key ORDER BY x.place), array_agg(x.rank ORDER BY x.place),
      array_agg(x.deadline ORDER BY x.place), array_agg(x.visible ORDER BY x.place), array_agg(x.expires ORDER BY x.place),
      array_agg(x.attempts ORDER BY x.place),
      CASE WHEN (p_batch->>'fair')::boolean THEN array_agg(x.fairness ORDER BY x.place) END, array_agg(x.step ORDER BY x.place),
      array_agg(x.metadata ORDER BY x.place), array_agg(decode(x.payload, 'hex') ORDER BY x.place))
    FROM json_to_recordset(p_batch->'messages') AS x(place BIGINT, queue BIGINT, exclusive BIGINT, id UUID, key UUID, rank BIGINT,
      deadline BIGINT, visible BIGINT, expires BIGINT, attempts BIGINT, fairness TEXT, step BIGINT, metadata TEXT, payload TEXT);
END $$;

-- A lease that is over is a conflict: what rides with it must not stand.
CREATE FUNCTION queue_stage_done(p_batch JSON) RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
  v_over BIGINT;
BEGIN
  SELECT count(*) INTO v_over FROM (
    SELECT queue_done((p_batch->>'now')::bigint, (p_batch->>'keep')::bigint, array_agg(x.queue ORDER BY x.place),
        array_agg(x.id ORDER BY x.place), array_agg(x.token ORDER BY x.place), p_batch->>'event')
      FROM json_to_recordset(p_batch->'leases') AS x(place BIGINT, queue BIGINT, id UUID, token BIGINT)) over;
  IF v_over > 0 THEN
    RAISE EXCEPTION '% of the leases to be completed are over', v_over USING ERRCODE = 'unique_violation';
  END IF;
END $$;
