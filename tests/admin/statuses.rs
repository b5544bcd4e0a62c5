//! Tests of the statuses of the API: each as HTTP defines it.

use std::fs;

use http::Method;
use serde_json::{Value, json};

use crate::harness::Understudy;
use crate::stage::{ApiResponse, receive, send, shop};

const GET: Method = Method::GET;
const HEAD: Method = Method::HEAD;
const OPTIONS: Method = Method::OPTIONS;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const PATCH: Method = Method::PATCH;
const DELETE: Method = Method::DELETE;

fn of_problem(answer: &ApiResponse, what: &str) {
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
    assert_eq!(answer.body["status"], answer.status, "{what}: {}", answer.body);
    for key in ["type", "title", "detail"] {
        assert!(answer.body[key].as_str().is_some_and(|text| !text.is_empty()), "{what}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_the_status_that_http_gives_it() {
    let understudy = shop(&[]).await;
    let upstream = |name: &str| json!({"name": name});
    let requests = [
        // Read.
        (GET, "/upstreams", Value::Null, 200),
        (GET, "/upstreams/", Value::Null, 200),
        (GET, "/upstreams/shop", Value::Null, 200),
        (GET, "/upstreams/shop/", Value::Null, 200),
        (HEAD, "/upstreams/shop", Value::Null, 200),
        (GET, "/upstreams/shop/targets/10.0.0.1:80", Value::Null, 200),
        (GET, "/upstreams/shop/targets/10.0.0.1%3A80", Value::Null, 200),
        (GET, "/upstreams/none", Value::Null, 404),
        (HEAD, "/upstreams/none", Value::Null, 404),
        (GET, "/upstreams/none/targets", Value::Null, 404),
        (GET, "/upstreams/shop/targets/10.0.0.9:80", Value::Null, 404),
        (GET, "/nothing", Value::Null, 404),
        (PUT, "/nothing", json!({}), 404),
        (GET, "/targets", Value::Null, 404),
        (GET, "/upstreams?size=0", Value::Null, 400),
        (GET, "/upstreams?size=1001", Value::Null, 400),
        (GET, "/upstreams?sise=1", Value::Null, 400),
        (GET, "/revisions/0", Value::Null, 404),
        (GET, "/revisions/99", Value::Null, 404),
        (GET, "/revisions/first", Value::Null, 404),
        (GET, "/revisions/1/diff", Value::Null, 400),
        (GET, "/revisions/0..1/diff", Value::Null, 200),
        (GET, "/snapshots/none", Value::Null, 404),
        // Methods.
        (OPTIONS, "/upstreams", Value::Null, 204),
        (PUT, "/upstreams", json!({}), 405),
        (DELETE, "/upstreams", Value::Null, 405),
        (POST, "/upstreams/shop", json!({}), 405),
        (POST, "/status", json!({}), 405),
        // Create.
        (POST, "/upstreams/", upstream("new"), 201),
        (POST, "/upstreams", upstream("new"), 409),
        (POST, "/upstreams/shop/targets", json!({"target": "10.0.0.1:80"}), 409),
        (POST, "/upstreams/none/targets", json!({"target": "10.0.0.1:80"}), 404),
        (POST, "/upstreams", json!({}), 422),
        (POST, "/upstreams", json!([]), 422),
        (POST, "/upstreams?really=yes", upstream("other"), 400),
        (POST, "/upstreams?dry_run=perhaps", upstream("other"), 400),
        (POST, "/upstreams?cascade=true", upstream("other"), 400),
        (POST, "/upstreams?wait=forever", upstream("other"), 400),
        (POST, "/upstreams?wait=acked&timeout=2h", upstream("other"), 400),
        // Replace.
        (PUT, "/upstreams/two", json!({}), 201),
        (PUT, "/upstreams/two", json!({}), 200),
        (PUT, "/upstreams/two", upstream("three"), 422),
        (PUT, "/upstreams/two/targets/10.0.0.1:80", json!({}), 201),
        (PUT, "/upstreams/two/targets/10.0.0.1:80", json!({"weight": 5}), 200),
        (PUT, "/raw/clusters/with/slashes", json!({"type": "STATIC"}), 201),
        (GET, "/raw/clusters/with/slashes", Value::Null, 200),
        (PUT, "/raw/nothing/x", json!({}), 404),
        // Merge.
        (PATCH, "/upstreams/two", json!({"connect_timeout": "1s"}), 200),
        (PATCH, "/upstreams/two", json!({"name": "three"}), 422),
        (PATCH, "/upstreams/none", json!({}), 404),
        (PATCH, "/raw/clusters/with/slashes", json!({"type": null}), 200),
        // Delete.
        (DELETE, "/upstreams/shop", Value::Null, 409),
        (DELETE, "/upstreams/two/targets/10.0.0.1:80", Value::Null, 204),
        (DELETE, "/upstreams/two", Value::Null, 204),
        (DELETE, "/upstreams/two", Value::Null, 404),
        (DELETE, "/raw/clusters/with/slashes", Value::Null, 204),
        (DELETE, "/upstreams/new?cascade=true", Value::Null, 200),
        // Whole config.
        (GET, "/config", Value::Null, 200),
        (PUT, "/config", json!({}), 400),
        (PUT, "/config?tag=none", json!({"targets": []}), 422),
        (PUT, "/config?tag=none", json!({"upstreams": [{}]}), 422),
        (PUT, "/config?tag=none", json!({"upstreams": [upstream("shop")]}), 409),
        (PATCH, "/config", json!({"changes": [{"method": "GET", "path": "/upstreams"}]}), 422),
        (PATCH, "/config", json!({"changes": [{"method": "PUT", "path": "/", "body": {}}]}), 404),
        (PATCH, "/config", json!({"changes": [{"method": "PUT", "path": "/upstreams", "body": {}}]}), 422),
        (POST, "/revisions/99/rollback", Value::Null, 404),
        (POST, "/revisions/1/rollback?keep=nothing", Value::Null, 400),
    ];
    for (method, path, body, status) in requests {
        let what = format!("{method} {path} {body}");
        let answer = send(&understudy, method.clone(), path, &[], body).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
        if status >= 400 && method != HEAD {
            of_problem(&answer, &what);
        }
        if status == 201 {
            let location = answer.header("location").to_owned();
            assert_eq!(understudy.get(&location).await.0, 200, "{what}: {location}");
        }
        if status == 405 || method == OPTIONS {
            assert!(answer.header("allow").contains("GET"), "{what}: {:?}", answer.headers);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_object_is_refused_by_its_kind() {
    let understudy = shop(&[]).await;
    let post = |content_type: &'static str, body: Vec<u8>| {
        let request = understudy.request(POST, "/upstreams").header("content-type", content_type);
        receive(request.body(body))
    };
    let large = vec![b' '; (16 << 20) + 1];
    for (content_type, body, status) in [
        ("text/yaml", b"name: a".to_vec(), 415),
        ("application/x-www-form-urlencoded", b"{}".to_vec(), 415),
        ("application/merge-patch+json", b"{\"name\": \"a\"}".to_vec(), 415),
        ("application/json", b"{".to_vec(), 400),
        ("application/json", b"".to_vec(), 400),
        ("application/json", b"{\"name\": \"a\", \"name\": \"b\"}".to_vec(), 422),
        ("application/json", large, 413),
        ("application/json; charset=utf-8", b"{\"name\": \"a\"}".to_vec(), 201),
    ] {
        let what = format!("{content_type} {} bytes", body.len());
        let answer = post(content_type, body).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
        if status >= 400 {
            of_problem(&answer, &what);
        }
    }
    let patch =
        understudy.request(PATCH, "/upstreams/a").header("content-type", "application/merge-patch+json");
    assert_eq!(receive(patch.body("{\"tags\": [\"x\"]}")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_what_is_no_longer_so_is_refused() {
    let understudy = shop(&[]).await;
    let read = send(&understudy, GET, "/upstreams/shop", &[], Value::Null).await;
    let tag = read.header("etag").to_owned();
    let unchanged = send(&understudy, GET, "/upstreams/shop", &[("if-none-match", &tag)], Value::Null).await;
    assert_eq!((unchanged.status, unchanged.body), (304, Value::Null));
    let body = json!({"connect_timeout": "1s"});
    let patch = async |tag: &str| {
        send(&understudy, PATCH, "/upstreams/shop", &[("if-match", tag)], body.clone()).await
    };
    let first = patch(&tag).await;
    assert_eq!(first.status, 200);
    assert_eq!(patch(&tag).await.status, 412);
    assert_eq!(patch(first.header("etag")).await.status, 200, "the answer has the new tag");
    assert_eq!(patch("*").await.status, 200);
    let put =
        async |path: &str, header: &str| send(&understudy, PUT, path, &[(header, "*")], json!({})).await;
    assert_eq!(put("/upstreams/shop", "if-none-match").await.status, 412, "it is there");
    assert_eq!(put("/upstreams/absent", "if-match").await.status, 412, "it is not there");
    assert_eq!(put("/upstreams/absent", "if-none-match").await.status, 201);

    let config = send(&understudy, GET, "/config", &[], Value::Null).await;
    let tag = config.header("etag").to_owned();
    let change = json!({"changes": [{"method": "PUT", "path": "/upstreams/more", "body": {}}]});
    let patch = async || send(&understudy, PATCH, "/config", &[("if-match", &tag)], change.clone()).await;
    assert_eq!(patch().await.status, 200);
    assert_eq!(patch().await.status, 412, "the whole has another tag now");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_without_a_condition_can_be_refused() {
    let understudy = Understudy::serve(&["--require-if-match"]).await;
    assert_eq!(understudy.put("/upstreams/a", json!({})).await.0, 201, "nothing is there to be lost");
    for (method, path) in [(PUT, "/upstreams/a"), (PATCH, "/upstreams/a"), (DELETE, "/upstreams/a")] {
        let answer = send(&understudy, method.clone(), path, &[], json!({})).await;
        assert_eq!(answer.status, 428, "{method} {path}: {}", answer.body);
        of_problem(&answer, path);
    }
    let deleted = send(&understudy, DELETE, "/upstreams/a", &[("if-match", "*")], Value::Null).await;
    assert_eq!(deleted.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_sorted_paged_and_filtered_by_tags() {
    let understudy = Understudy::serve(&[]).await;
    for (name, tags) in [("c", json!(["x", "y"])), ("a", json!(["x"])), ("b", json!(["y"])), ("d", json!([]))]
    {
        assert_eq!(understudy.post("/upstreams", json!({"name": name, "tags": tags})).await.0, 201);
    }
    let names = async |query: &str| {
        let (mut next, mut names) = (format!("/upstreams{query}"), Vec::new());
        loop {
            let (status, page) = understudy.get(&next).await;
            assert_eq!(status, 200, "{next}: {page}");
            let items = page["items"].as_array().unwrap();
            names.push(items.iter().map(|item| item["name"].as_str().unwrap()).collect::<String>());
            match page["next"].as_str() {
                Some(path) => next = path.to_owned(),
                None => return names.join("|"),
            }
        }
    };
    for (query, expected) in [
        ("", "abcd"),
        ("?size=2", "ab|cd"),
        ("?size=1000", "abcd"),
        ("?after=b", "cd"),
        ("?tag=x", "ac"),
        ("?tag=x,y", "abc"),
        ("?tag=x&tag=y", "c"),
        ("?size=1&tag=x,y", "a|b|c"),
        ("?tag=z", ""),
    ] {
        assert_eq!(names(query).await, expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_declares_is_changed_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.yaml");
    fs::write(&file, "\nupstreams:\n  - name: shop\n    targets: [{ target: 10.0.0.1:80 }]\n").unwrap();
    let understudy = Understudy::serve(&[&file.display().to_string()]).await;
    let place = format!("{}:3", file.display());
    for (method, path) in [
        (PUT, "/upstreams/shop"),
        (PATCH, "/upstreams/shop"),
        (DELETE, "/upstreams/shop"),
        (DELETE, "/upstreams/shop?cascade=true"),
        (PUT, "/config?tag=x"),
    ] {
        let body = if path.contains("config") { json!({"upstreams": [{"name": "shop"}]}) } else { json!({}) };
        let answer = send(&understudy, method.clone(), path, &[], body).await;
        assert_eq!(answer.status, 409, "{method} {path}: {}", answer.body);
        assert!(answer.body["detail"].as_str().unwrap().contains(&place), "{}", answer.body);
    }
    let answer = send(&understudy, DELETE, "/upstreams/shop/targets/10.0.0.1:80", &[], Value::Null).await;
    assert_eq!(answer.status, 409, "{}", answer.body);
    let (status, _) = understudy.post("/upstreams/shop/targets", json!({"target": "10.0.0.2:80"})).await;
    assert_eq!(status, 201, "targets may be added");
    let (status, _) = understudy.post("/services", json!({"name": "shop", "upstream": "shop"})).await;
    assert_eq!(status, 201, "and be referred to");
    // An upstream that leaves the file leaves its added targets behind.
    assert_eq!(understudy.delete("/services/shop").await.0, 204);
    fs::write(&file, "").unwrap();
    crate::harness::eventually(crate::harness::PATIENCE, "the target is orphaned", async || {
        let (_, status) = understudy.get("/status").await;
        match status["orphaned_targets"] == json!(["shop/10.0.0.2:80"]) {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    })
    .await;
    assert_eq!(understudy.delete("/upstreams/shop/targets/10.0.0.2:80").await.0, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_names_what_is_in_its_way_and_may_take_it_along() {
    let understudy = shop(&[]).await;
    assert_eq!(understudy.post("/upstreams/shop/targets", json!({"target": "10.0.0.3:80"})).await.0, 201);
    let (status, problem) = understudy.delete("/upstreams/shop").await;
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("services.shop"), "{problem}");
    let planned = understudy.delete("/upstreams/shop?cascade=true&dry_run=true").await.1;
    assert_eq!(planned["changes"].as_array().unwrap().len(), 4, "{planned}");
    let (status, gone) = understudy.delete("/upstreams/shop?cascade=true").await;
    assert_eq!(status, 200, "{gone}");
    let mut deleted: Vec<&str> =
        gone["deleted"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    deleted.sort_unstable();
    assert_eq!(
        deleted,
        ["/routes/shop", "/services/shop", "/upstreams/shop", "/upstreams/shop/targets/10.0.0.3:80"]
    );
    assert_eq!(understudy.get("/config").await.1["routes"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_one_of_several_changes_refuses_all_and_has_its_place() {
    let understudy = shop(&[]).await;
    let changes = json!({"changes": [
        {"method": "PUT", "path": "/upstreams/fine", "body": {}},
        {"method": "PUT", "path": "/upstreams/bad", "body": {"targets": [{"target": "10.0.0.1:0"}]}},
        {"method": "DELETE", "path": "/services/shop"},
    ]});
    let (status, problem) = understudy.patch("/config", changes).await;
    assert_eq!(status, 422, "{problem}");
    let violations = problem["violations"].as_array().unwrap();
    let places: Vec<_> = violations.iter().map(|it| (&it["path"], &it["pointer"])).collect();
    let expected = [
        // The route that is left is not part of the request.
        (&json!("routes.shop.service"), &Value::Null),
        (&json!("upstreams.bad.targets[0].target"), &json!("/changes/1/body/targets/0/target")),
    ];
    assert_eq!(places, expected, "{problem}");
    assert_eq!(understudy.get("/upstreams/fine").await.0, 404);

    // Each change is applied to the result of the ones before it, and only the outcome must be valid.
    let changes = json!({"changes": [
        {"method": "DELETE", "path": "/upstreams/shop"},
        {"method": "POST", "path": "/upstreams", "body": {"name": "shop"}},
        {"method": "POST", "path": "/upstreams/shop/targets", "body": {"target": "10.0.0.7:80"}},
        {"method": "PATCH", "path": "/upstreams/shop/targets/10.0.0.7:80", "body": {"weight": 7}},
    ]});
    let (status, done) = understudy.patch("/config", changes).await;
    assert_eq!(status, 200, "{done}");
    let statuses: Vec<&Value> = done["changes"].as_array().unwrap().iter().map(|it| &it["status"]).collect();
    assert_eq!(statuses, [204, 201, 201, 200]);
    let (_, targets) = understudy.get("/upstreams/shop/targets").await;
    assert_eq!(targets["items"][0]["weight"], 7, "{targets}");
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_come_back_with_the_write_that_made_them() {
    let understudy = shop(&[]).await;
    let targets = json!([{"target": "10.0.0.1:80"}, {"target": "10.0.0.2:80", "priority": 5}]);
    let body = json!({"name": "gap", "targets": targets});
    let created = send(&understudy, POST, "/upstreams", &[], body).await;
    assert_eq!((created.status, &created.body["warnings"][0]["code"]), (201, &json!("US117")));
    assert!(created.header("x-warning").contains("US117"), "{:?}", created.headers);
    let again = send(&understudy, PUT, "/upstreams/gap", &[], created.body).await;
    assert_eq!((again.status, &again.body["warnings"]), (200, &Value::Null), "nothing is new of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tagged_part_becomes_what_is_declared() {
    let understudy = shop(&[]).await;
    let sync = async |body: Value| {
        let (status, answer) = understudy.put("/config?tag=team", body).await;
        assert_eq!(status, 200, "{answer}");
        ["created", "updated", "deleted"].map(|key| answer[key].to_string()).join(" ")
            + &answer["unchanged"].to_string()
    };
    let both = json!({"upstreams": [{"name": "one"}, {"name": "two"}], "services": [{"name": "one", "upstream": "one"}]});
    assert_eq!(sync(both.clone()).await, r#"["/services/one","/upstreams/one","/upstreams/two"] [] []0"#);
    assert_eq!(sync(both).await, "[] [] []3");
    // A target that an autoscaler added does not belong to the declaration.
    assert_eq!(understudy.post("/upstreams/one/targets", json!({"target": "10.0.0.1:80"})).await.0, 201);
    let less = json!({"upstreams": [{"name": "one", "connect_timeout": "1s"}]});
    let synced = sync(less.clone()).await;
    assert_eq!(synced, r#"[] ["/upstreams/one"] ["/services/one","/upstreams/two"]0"#);
    assert_eq!(sync(less).await, "[] [] []1");
    let (_, one) = understudy.get("/upstreams/one").await;
    assert_eq!((&one["tags"], &one["targets"][0]["target"]), (&json!(["team"]), &json!("10.0.0.1:80")));
    assert_eq!(understudy.get("/upstreams/shop").await.0, 200, "others stay");
    let tagged = understudy.get("/config?tag=team").await.1;
    assert_eq!(tagged["upstreams"].as_array().unwrap().len(), 1, "{tagged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_changes_what_it_says_and_nothing_that_is_only_shown() {
    let understudy = shop(&[]).await;
    assert_eq!(
        understudy.post("/upstreams/shop/targets", json!({"target": "10.0.0.3:80", "weight": 50})).await.0,
        201
    );
    for (target, was) in [("10.0.0.3:80", "50"), ("10.0.0.1:80", "its default")] {
        let path = format!("/upstreams/shop/targets/{target}");
        let answer = send(&understudy, PATCH, &path, &[], json!({"weight": 10})).await;
        assert_eq!((answer.status, &answer.body["failover"]), (200, &json!(false)), "{}", answer.body);
        let revision = understudy.get(&format!("/revisions/{}", answer.header("x-revision"))).await.1;
        let (before, after) = (&revision["changes"][0]["before"], &revision["changes"][0]["after"]);
        assert!(!after.to_string().contains("failover\":false"), "{target}, {was}: {before} {after}");
        let again = send(&understudy, PATCH, &path, &[], json!({"weight": 10})).await;
        assert_eq!((again.status, again.header("x-revision")), (200, ""), "nothing changed");
    }
}
