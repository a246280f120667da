//! Every refusal is a problem with a stable code and a page.

use reqwest::Method;

use crate::bed::Bed;

#[tokio::test]
async fn every_refusal_is_a_problem_with_a_page() {
    let bed = Bed::new().await;
    for (method, path, status, code) in [
        (Method::GET, "/v1/nowhere", 404, "no-such-path"),
        (Method::GET, "/v1/services/nobody", 404, "no-such-service"),
        (Method::DELETE, "/v1/runs", 405, "no-such-method"),
        (
            Method::GET,
            "/v1/runs/run_00000000000000000000000000",
            404,
            "no-such-run",
        ),
        (
            Method::GET,
            "/v1/runs/run_00000000000000000000000000/calls",
            404,
            "no-such-run",
        ),
        (
            Method::GET,
            "/v1/runs/run_00000000000000000000000000/events",
            404,
            "no-such-run",
        ),
        (
            Method::POST,
            "/v1/runs/run_00000000000000000000000000/cancel",
            404,
            "no-such-run",
        ),
        (Method::GET, "/v1/runs/nonsense", 400, "invalid-parameter"),
        (Method::GET, "/v1/runs/%ff", 400, "bad-request"),
        (Method::GET, "/v1/runs?limit=0", 400, "invalid-parameter"),
        (Method::GET, "/v1/runs?limit=501", 400, "invalid-parameter"),
        (Method::GET, "/v1/runs?surely=not", 400, "invalid-parameter"),
        (Method::GET, "/v1/runs?state=odd", 400, "invalid-parameter"),
        (Method::GET, "/v1/runs?label=nokey", 400, "invalid-parameter"),
        (
            Method::GET,
            "/v1/runs?created_after=yesterday",
            400,
            "invalid-parameter",
        ),
        (Method::GET, "/errors/nothing", 404, "no-such-path"),
    ] {
        let answer = bed.send(bed.request(method, path)).await;
        answer.is_problem(status, code);
        assert_eq!(
            answer.json["instance"],
            path.split('?').next().unwrap_or_default()
        );
        let page = bed.get(&format!("/errors/{code}")).await;
        assert_eq!(page.status, 200);
        assert!(page.body.starts_with(format!("# {code}\n").as_bytes()));
    }
    bed.stop().await;
}

#[tokio::test]
async fn bodies_that_are_not_small_json_are_refused() {
    let bed = Bed::new().await;
    let path = "/v1/services/hello/greet";
    let wrong = bed.post(path, &[], "{\n  \"name\": ,\n}").await;
    wrong.is_problem(400, "bad-json");
    assert_eq!(
        (wrong.json["line"].as_u64(), wrong.json["column"].as_u64()),
        (Some(2), Some(11)),
        "{wrong:?}"
    );
    let text = bed
        .request(Method::POST, path)
        .header("Content-Type", "text/plain")
        .body("hello");
    bed.send(text).await.is_problem(415, "wrong-content-type");
    bed.post(path, &[], &format!("\"{}\"", "x".repeat(40 << 10)))
        .await
        .is_problem(413, "body-too-large");
    for (name, value) in [
        ("Idempotency-Key", "k".repeat(256).as_str()),
        ("Prefer", "wait=soon"),
        ("Celesta-Priority", "urgent"),
        ("Celesta-Deadline", "tomorrow"),
        ("Celesta-Label", "nokey"),
    ] {
        bed.post(path, &[(name, value)], "{}")
            .await
            .is_problem(400, "invalid-header");
    }
    bed.post(path, &[], "{}").await.is_problem(404, "no-such-service");
    bed.stop().await;
}

#[tokio::test]
async fn probes_metrics_and_the_description_answer() {
    let bed = Bed::new().await;
    assert_eq!(bed.get("/healthz").await.body, b"ok\n");
    assert_eq!(bed.get("/readyz").await.body, b"ready\n");
    let metrics = bed.get("/metrics").await;
    assert!(
        String::from_utf8_lossy(&metrics.body).contains("celesta_http_requests_total"),
        "{metrics:?}"
    );
    let description = bed.get("/openapi.json").await;
    assert_eq!(description.json["openapi"], "3.1.0");
    assert!(description.json["paths"]["/v1/runs/{run}/events"]["get"].is_object());
    bed.stop().await;
}
