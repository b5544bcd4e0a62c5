//! Tokens of the API: listed, made, revoked. Their texts are not stored, and shown once.

use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use tracing::info;

use crate::access::policy::{Access, Denial, Principal};
use crate::access::tokens::{Role, Token, TokenError, TokenSecret};
use crate::admin::http::blocking;
use crate::admin::http::page::Items;
use crate::admin::http::problem::Problem;
use crate::admin::http::request::{Object, decoded};
use crate::admin::route::{ApiRoute, Content};
use crate::admin::schema;
use crate::admin::state::Admin;
use crate::admin::view::token::{NewTokenView, TokenView};
use crate::config::Path as FieldPath;
use crate::store::{RemovalTerms, Store, TokenAddition, TokenRemoval};

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let (all, one) = ("/tokens", "/tokens/{name}");
    vec![
        ApiRoute::get(all, Role::Write, "List the tokens", list, Content::json::<Items<TokenView>>()),
        ApiRoute::post(
            all,
            Role::Write,
            "Make a token; this response alone has its text",
            create,
            &[201],
            Content::json::<NewTokenView>(),
        )
        .body(schema::of::<TokenBody>())
        .fails(&[409, 507]),
        ApiRoute::get(one, Role::Write, "Read a token, without its text", read, Content::json::<TokenView>()),
        ApiRoute::delete(one, Role::Write, "Revoke a token", revoke, &[204], Content::empty())
            .fails(&[409, 507]),
    ]
}

/// Body of `POST /tokens`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    /// Name of the holder: the author of the revisions that the token makes.
    #[schemars(regex(pattern = "^[A-Za-z0-9._@:-]{1,63}$"))]
    name: String,
    /// Permissions.
    #[schemars(extend("enum" = ["read", "operate", "write"]))]
    role: String,
}

/// Handles `GET /tokens`.
async fn list(State(admin): State<Admin>) -> Json<Items<TokenView>> {
    Json(Items { items: admin.access.tokens().iter().map(TokenView::from).collect(), next: None })
}

/// Handles `GET /tokens/{name}`.
async fn read(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<TokenView>, Problem> {
    let tokens = admin.access.tokens();
    let token = tokens.iter().find(|token| token.name == name).ok_or_else(|| absent(&name))?;
    Ok(Json(token.into()))
}

/// Handles `POST /tokens`.
async fn create(
    State(admin): State<Admin>,
    Extension(principal): Extension<Principal>,
    Object(body): Object,
) -> Result<Response, Problem> {
    let TokenBody { name, role } = decoded(&body)?;
    let role: Role = role
        .parse()
        .map_err(|detail: String| Problem::unprocessable(&FieldPath::default().key("role"), detail))?;
    let (access, store) = (admin.access, admin.store.clone());
    let by = principal.name.clone();
    let (token, secret) = blocking::run(move || add(&access, &*store, &principal, &name, role)).await?;
    info!(token = token.name, role = role.word(), by, "a token was made");
    let body = NewTokenView { stored: (&token).into(), token: secret.reveal().to_owned() };
    let headers = [
        (header::LOCATION, format!("/tokens/{}", token.name)),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((StatusCode::CREATED, headers, Json(body)).into_response())
}

fn add(
    access: &Access,
    store: &dyn Store,
    client: &Principal,
    name: &str,
    role: Role,
) -> Result<(Token, TokenSecret), Problem> {
    let refused = |error: TokenError| match error {
        TokenError::Name => Problem::unprocessable(&FieldPath::default().key("name"), error.to_string()),
        TokenError::Taken(_) => Problem::new(StatusCode::CONFLICT, error.to_string()),
    };
    let (token, secret) = Token::create(name, role).map_err(refused)?;
    let added = store.add_token(&token.to_record(), client.token_hash());
    match added.map_err(|error| Problem::unstored(&error))? {
        TokenAddition::Added => {}
        TokenAddition::Taken => return Err(refused(TokenError::Taken(token.name))),
        TokenAddition::ClientRevoked => return Err(revoked_client()),
    }
    access.reload_tokens(store)?;
    Ok((token, secret))
}

/// Handles `DELETE /tokens/{name}`.
async fn revoke(
    State(admin): State<Admin>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let (access, store) = (admin.access, admin.store.clone());
    let (revoked, by) = (name.clone(), principal.name.clone());
    blocking::run(move || remove(&access, &*store, &principal, &name)).await?;
    info!(token = revoked, by, "a token was revoked");
    Ok(StatusCode::NO_CONTENT)
}

fn remove(access: &Access, store: &dyn Store, client: &Principal, name: &str) -> Result<(), Problem> {
    // Without a token that may write, nobody could make another one.
    let kept_role = access.is_required().then(|| Role::Write.word());
    let terms = RemovalTerms { client: client.token_hash(), kept_role };
    match store.remove_token(name, terms).map_err(|error| Problem::unstored(&error))? {
        TokenRemoval::Removed => Ok(access.reload_tokens(store)?),
        TokenRemoval::Absent => Err(absent(name)),
        TokenRemoval::Last => {
            let detail = format!("`{name}` is the last token with the role `write`; make another one first");
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        TokenRemoval::ClientRevoked => Err(revoked_client()),
    }
}

/// Returns 401, for a client whose token was revoked after its request was admitted.
fn revoked_client() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, Denial::WrongToken.to_string())
}

fn absent(name: &str) -> Problem {
    Problem::not_found(&format!("no token is named `{name}`"))
}
