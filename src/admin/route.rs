//! Routes of the API. One row has all that is known of a route: the router, the guard and `/openapi.json` are made
//! from the same rows, so that a route cannot be added without a role and a description.

use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::JsonSchema;

use crate::access::tokens::Role;
use crate::admin::schema::{self, SchemaFn};
use crate::admin::state::Admin;

/// Method of a path.
pub(crate) struct ApiRoute {
    pub(crate) method: Method,
    /// Template in axum's syntax, such as `/raw/{type}/{*name}`.
    pub(crate) path: String,
    /// Role that a request needs; none if it needs no token.
    pub(crate) role: Option<Role>,
    pub(crate) handler: MethodRouter<Admin>,
    pub(crate) summary: String,
    /// Parameters of the query, beside those that the effect brings along.
    pub(crate) parameters: Vec<QueryParameter>,
    pub(crate) effect: Effect,
    /// Schema of the request body; none for a request without one.
    pub(crate) body: Option<SchemaFn>,
    /// False if the body may be left out.
    pub(crate) is_body_required: bool,
    /// Statuses of success.
    pub(crate) statuses: &'static [u16],
    /// Content of a successful response.
    pub(crate) content: Content,
    /// Statuses of failure, beside those that the effect brings along.
    pub(crate) failures: &'static [u16],
}

/// Effect of a request on the state of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Answers a question, or changes something that is neither config nor order.
    None,
    /// Changes the config: it can be planned, conditional, waited for, and makes a revision.
    Change,
    /// Gives an order or withdraws one; a dry run has the same response.
    Order,
}

/// Content of a response: its media types, each with a schema if it is JSON. Empty for a response without a body.
pub(crate) struct Content(pub(crate) Vec<(&'static str, Option<SchemaFn>)>);

impl Content {
    /// Returns JSON of a type.
    pub(crate) fn json<T: JsonSchema>() -> Self {
        Self::json_of(schema::of::<T>())
    }

    /// Returns JSON with a schema.
    pub(crate) fn json_of(schema: SchemaFn) -> Self {
        Self(vec![("application/json", Some(schema))])
    }

    /// Returns content of another media type.
    pub(crate) fn other(media_type: &'static str) -> Self {
        Self(vec![(media_type, None)])
    }

    /// Returns no content.
    pub(crate) fn empty() -> Self {
        Self(Vec::new())
    }

    /// Adds another media type that the client can choose.
    pub(crate) fn or(mut self, media_type: &'static str) -> Self {
        self.0.push((media_type, None));
        self
    }
}

/// Parameter of a query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueryParameter {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) values: ParameterValues,
}

/// Values of a parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ParameterValues {
    /// Any text.
    Text,
    /// `true` or `false`.
    Flag,
    /// Number from 1 to 1000.
    Size,
    /// One of these words.
    Words(&'static [&'static str]),
}

impl QueryParameter {
    /// Size of a page.
    pub(crate) const SIZE: Self = Self {
        name: "size",
        description: "Maximum number of items of the page: 1 to 1000, 100 by default",
        values: ParameterValues::Size,
    };

    /// Returns a parameter that takes any text.
    pub(crate) const fn text(name: &'static str, description: &'static str) -> Self {
        Self { name, description, values: ParameterValues::Text }
    }

    /// Returns a parameter that is `true` or `false`.
    pub(crate) const fn flag(name: &'static str, description: &'static str) -> Self {
        Self { name, description, values: ParameterValues::Flag }
    }

    /// Returns a parameter that takes one of these words.
    pub(crate) const fn words(
        name: &'static str,
        description: &'static str,
        words: &'static [&'static str],
    ) -> Self {
        Self { name, description, values: ParameterValues::Words(words) }
    }
}

impl ApiRoute {
    /// Returns a route that reads. `role` is that of the token that it needs.
    pub(crate) fn get<H: Handler<T, Admin>, T: 'static>(
        path: impl Into<String>,
        role: impl Into<Option<Role>>,
        summary: impl Into<String>,
        handler: H,
        content: Content,
    ) -> Self {
        Self::new(Method::GET, (path.into(), role.into(), summary.into()), handler, &[200], content)
    }

    /// Returns a route of POST.
    pub(crate) fn post<H: Handler<T, Admin>, T: 'static>(
        path: impl Into<String>,
        role: Role,
        summary: impl Into<String>,
        handler: H,
        statuses: &'static [u16],
        content: Content,
    ) -> Self {
        Self::new(Method::POST, (path.into(), Some(role), summary.into()), handler, statuses, content)
    }

    /// Returns a route of PUT.
    pub(crate) fn put<H: Handler<T, Admin>, T: 'static>(
        path: impl Into<String>,
        role: Role,
        summary: impl Into<String>,
        handler: H,
        statuses: &'static [u16],
        content: Content,
    ) -> Self {
        Self::new(Method::PUT, (path.into(), Some(role), summary.into()), handler, statuses, content)
    }

    /// Returns a route of PATCH.
    pub(crate) fn patch<H: Handler<T, Admin>, T: 'static>(
        path: impl Into<String>,
        role: Role,
        summary: impl Into<String>,
        handler: H,
        statuses: &'static [u16],
        content: Content,
    ) -> Self {
        Self::new(Method::PATCH, (path.into(), Some(role), summary.into()), handler, statuses, content)
    }

    /// Returns a route of DELETE.
    pub(crate) fn delete<H: Handler<T, Admin>, T: 'static>(
        path: impl Into<String>,
        role: Role,
        summary: impl Into<String>,
        handler: H,
        statuses: &'static [u16],
        content: Content,
    ) -> Self {
        Self::new(Method::DELETE, (path.into(), Some(role), summary.into()), handler, statuses, content)
    }

    fn new<H: Handler<T, Admin>, T: 'static>(
        method: Method,
        (path, role, summary): (String, Option<Role>, String),
        handler: H,
        statuses: &'static [u16],
        content: Content,
    ) -> Self {
        let filter = MethodFilter::try_from(method.clone()).expect("a method that the router knows");
        Self {
            method,
            path,
            role,
            handler: on(filter, handler),
            summary,
            parameters: Vec::new(),
            effect: Effect::None,
            body: None,
            is_body_required: true,
            statuses,
            content,
            failures: &[],
        }
    }

    /// Adds parameters of the query.
    pub(crate) fn query(mut self, parameters: &[QueryParameter]) -> Self {
        self.parameters.extend(parameters);
        self
    }

    /// Adds statuses of failure.
    pub(crate) fn fails(self, failures: &'static [u16]) -> Self {
        Self { failures, ..self }
    }

    /// Sets the body of a request without effect.
    pub(crate) fn body(self, body: SchemaFn) -> Self {
        Self { body: Some(body), ..self }
    }

    /// Sets the body of a change of the config.
    pub(crate) fn change(self, body: SchemaFn) -> Self {
        Self { body: Some(body), effect: Effect::Change, ..self }
    }

    /// Makes the request a change of the config without a body.
    pub(crate) fn removal(self) -> Self {
        Self { effect: Effect::Change, ..self }
    }

    /// Sets the body of an order.
    pub(crate) fn order(self, body: SchemaFn) -> Self {
        Self { body: Some(body), effect: Effect::Order, ..self }
    }

    /// Makes the request the withdrawal of an order.
    pub(crate) fn withdrawal(self) -> Self {
        Self { effect: Effect::Order, ..self }
    }

    /// Lets the body be left out.
    pub(crate) fn optional_body(self) -> Self {
        Self { is_body_required: false, ..self }
    }
}
