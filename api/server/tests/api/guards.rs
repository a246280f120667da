//! Who may speak with the server.

use celesta_runtime::{Shutdown, TaskSet};
use celesta_server::{BindError, Server, ServerConfig};
use reqwest::Method;

use crate::bed::{Bed, api};

#[tokio::test]
async fn an_address_others_can_reach_needs_a_token() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tasks = TaskSet::new(Shutdown::new());
    let config = ServerConfig {
        listen: "0.0.0.0:0".to_owned(),
        token: None,
    };
    let refused = Server::bind(config, api(folder.path(), &tasks).await).await;
    assert!(
        matches!(refused, Err(BindError::NeedsToken { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn with_a_token_everything_but_probes_needs_it() {
    let bed = Bed::with(ServerConfig {
        listen: "127.0.0.1:0".to_owned(),
        token: Some("secret".to_owned()),
    })
    .await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(bed.get(path).await.status, 200, "{path}");
    }
    let asked = |authorization: &str| {
        let request = bed
            .request(Method::GET, "/v1/services")
            .header("Authorization", authorization);
        bed.send(request)
    };
    let refused = bed.get("/v1/services").await;
    refused.is_problem(401, "unauthorized");
    assert_eq!(refused.header("www-authenticate"), "Bearer");
    bed.get("/metrics").await.is_problem(401, "unauthorized");
    for wrong in ["Bearer secre", "Bearer secret!", "Basic secret", "Bearer "] {
        asked(wrong).await.is_problem(401, "unauthorized");
    }
    assert_eq!(asked("Bearer secret").await.status, 200);
    assert_eq!(
        asked("bearer secret").await.status,
        200,
        "the scheme's case does not matter"
    );
    bed.stop().await;
}

#[tokio::test]
async fn pages_from_elsewhere_are_refused_on_loopback() {
    let bed = Bed::new().await;
    for host in ["evil.example", "127.evil.example", "localhost.evil.example"] {
        bed.send(bed.request(Method::GET, "/v1/services").header("Host", host))
            .await
            .is_problem(421, "wrong-host");
    }
    for origin in ["https://evil.example", "null"] {
        let request = bed
            .request(Method::POST, "/v1/artifacts")
            .header("Origin", origin)
            .body("x");
        bed.send(request).await.is_problem(421, "wrong-host");
    }
    let own = bed
        .request(Method::GET, "/v1/services")
        .header("Host", "localhost")
        .header("Origin", "http://localhost:3000");
    let own = bed.send(own).await;
    assert_eq!(own.status, 200);
    assert!(
        !own.headers.contains_key("access-control-allow-origin"),
        "no page is let in by default"
    );
    bed.stop().await;
}
