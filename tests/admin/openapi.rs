//! Tests of the API's description against the API: methods, and the responses to faulty requests.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use crate::harness::Understudy;
use crate::stage::{ApiResponse, receive, send, shop};

/// Method of a path of the description.
struct DescribedOperation<'a> {
    method: Method,
    path: &'a str,
    described: &'a Value,
}

impl DescribedOperation<'_> {
    fn is_probe(&self) -> bool {
        ["/livez", "/readyz"].contains(&self.path)
    }

    /// Returns the path with names that do not exist, of types that do.
    fn path_of_nothing(&self) -> String {
        let words = [
            ("{target}", "10.0.0.9:80"),
            ("{number}/diff", "998..999/diff"),
            ("{number}", "999"),
            ("{priority}", "7"),
        ];
        let path = words.iter().fold(self.path.to_owned(), |path, (word, name)| path.replace(word, name));
        let mut filled = String::new();
        for (index, part) in path.split('/').enumerate() {
            let part = if part.starts_with('{') { "nothing" } else { part };
            filled += &format!("{}{part}", if index == 0 { "" } else { "/" });
        }
        filled
    }

    fn has(&self, status: u16) -> bool {
        self.described["responses"].get(status.to_string()).is_some()
    }

    fn takes_a_body(&self) -> bool {
        self.described.get("requestBody").is_some()
    }
}

fn operations(document: &Value) -> Vec<DescribedOperation<'_>> {
    let paths = document["paths"].as_object().unwrap().iter();
    let all = paths.flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(move |(method, described)| {
            let method = method.to_uppercase().parse().unwrap();
            DescribedOperation { method, path, described }
        })
    });
    all.collect()
}

async fn ask(
    understudy: &Understudy,
    operation: &DescribedOperation<'_>,
    headers: &[(&str, &str)],
) -> ApiResponse {
    let body = match (&operation.method, operation.path) {
        (&Method::PATCH, "/config") => {
            json!({"changes": [{"method": "DELETE", "path": "/upstreams/nothing"}]})
        }
        (&Method::PUT, path) if path.ends_with("/state") => json!({"state": "drained"}),
        _ if operation.takes_a_body() => json!({}),
        _ => Value::Null,
    };
    send(understudy, operation.method.clone(), &operation.path_of_nothing(), headers, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_described_is_what_the_paths_know() {
    let understudy = Understudy::serve(&[]).await;
    let document = understudy.get("/openapi.json").await.1;
    let operations = operations(&document);
    assert!(operations.len() > 60, "{}", operations.len());
    let paths: BTreeSet<&str> = operations.iter().map(|operation| operation.path).collect();
    for path in paths {
        let of_path: Vec<&DescribedOperation<'_>> = operations.iter().filter(|it| it.path == path).collect();
        let mut described: BTreeSet<String> = of_path.iter().map(|it| it.method.to_string()).collect();
        if described.contains("GET") {
            described.insert("HEAD".to_owned());
        }
        let options =
            send(&understudy, Method::OPTIONS, &of_path[0].path_of_nothing(), &[], Value::Null).await;
        let known: BTreeSet<String> =
            options.header("allow").split(',').map(|it| it.trim().to_owned()).collect();
        assert_eq!((options.status, known), (204, described), "{path}");
        let other = send(
            &understudy,
            Method::from_bytes(b"PURGE").unwrap(),
            &of_path[0].path_of_nothing(),
            &[],
            Value::Null,
        )
        .await;
        assert_eq!((other.status, other.header("allow")), (405, options.header("allow")), "{path}");
    }
}

/// Sends faulty requests, and returns each response with the fault and the expected status.
async fn provoked(
    understudy: &Understudy,
    operation: &DescribedOperation<'_>,
) -> Vec<(u16, &'static str, ApiResponse)> {
    let admin = understudy.admin.to_string();
    let mut answers = vec![
        (
            401,
            "a token that is none",
            ask(understudy, operation, &[("authorization", "Bearer understudy_no")]).await,
        ),
        (
            403,
            "a page of another origin",
            ask(understudy, operation, &[("origin", "http://evil.example.com")]).await,
        ),
        (421, "another name", ask(understudy, operation, &[("host", "evil.example.com")]).await),
    ];
    // Other operations would create the missing entity.
    if operation.has(404) {
        answers.push((404, "names that nothing has", ask(understudy, operation, &[]).await));
    }
    if operation.takes_a_body() {
        let url = format!("http://{admin}{}", operation.path_of_nothing());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let with = |content_type: &'static str, body: &'static str| {
            receive(
                client
                    .request(operation.method.clone(), &url)
                    .header("content-type", content_type)
                    .body(body),
            )
        };
        answers.push((415, "a body of another type", with("text/plain", "{}").await));
        answers.push((422, "a body that is no object", with("application/json", "[]").await));
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_to_what_is_wrong_is_described_and_the_other_way_round() {
    let understudy = shop(&[]).await;
    let document = understudy.get("/openapi.json").await.1;
    let mut wrong = Vec::new();
    for operation in operations(&document).iter().filter(|operation| !operation.is_probe()) {
        if operation.path == "/events" {
            // The response of `/events` has no end.
            continue;
        }
        let what = format!("{} {}", operation.method, operation.path);
        let answers = provoked(&understudy, operation).await;
        for (status, why, answer) in &answers {
            if !operation.has(answer.status) {
                wrong.push(format!("{what}, {why}: {} is not described: {}", answer.status, answer.body));
            }
            if operation.has(*status) && answer.status != *status {
                wrong.push(format!(
                    "{what}, {why}: {status} is described and not answered, but {}",
                    answer.status
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
