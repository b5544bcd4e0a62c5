//! Failover: who serves, who should serve, and who served.
//!
//! The targets of an upstream stand in tiers: the primaries in tier 0, the standbys behind them. Envoys fail
//! over by themselves: each sends its requests to the first tier with healthy targets. This room observes
//! which tier that is, lets operators and policies steer it, and keeps a record of it.
//!
//! - [`traffic`]: **who serves**. Load reports and health checks of all nodes become the serving tier, the
//!   request rate and the health of each target.
//! - [`orders`]: **who should serve**. Drained targets, pins, held standbys and drills in force, and the
//!   decisions on them. They amount to [overrides](crate::model::overrides) of endpoints.
//! - [`history`]: **who served**. Each period in which a standby served, with its cause.
//! - [`supervisor`]: **who carries out**. The task that owns orders and history, acts as time passes and
//!   Envoys report, and makes every result durable before it is published.
//! - [`ledger`]: **what is kept**. Orders and history as the store has them.
//!
//! ```text
//!   Envoys ── load reports, checks ──> traffic ── TierShift ──> history ── FailoverChange ──> events, webhooks
//!                                         |                        |
//!                                      Summary                   cause
//!                                         v                        v
//!   REST ───── OrderRequest ─────────> orders: Situation ──> next Orders
//!                                                                  |
//!                          supervisor: store ──> overrides to Envoys ──> events, webhooks
//! ```
//!
//! `traffic`, `orders` and `history` are pure: time and reports are their arguments.
//!
//! # A load report, from the wire to `GET /upstreams/{upstream}/health`
//!
//! 1. `xds::load_report` decodes it, and [`ReporterGuard::report`](crate::nodes::ReporterGuard::report)
//!    counts it for the node and queues it.
//! 2. [`Supervisor::ingest_reports`](supervisor::Supervisor::ingest_reports) takes it from the queue and
//!    passes it to [`Traffic::ingest`](traffic::Traffic::ingest).
//! 3. `traffic::ingest` finds the upstream and the target of each endpoint, adds to the counters of the
//!    upstream, derives the tier that serves (`traffic::load`) and the health of each endpoint
//!    (`traffic::inference`), and stores them in the observations of the node (`traffic::node`).
//! 4. The handler asks [`Supervisor::summary`](supervisor::Supervisor::summary), which sums the observations
//!    of all nodes up into a [`Summary`](traffic::summary::Summary), and adds the orders and the last
//!    failover from the [`Ledger`](ledger::Ledger).
//!
//! # A failover, from a load report to history, event and webhook
//!
//! 1. If the serving tier of the node changed, `traffic::ingest` returns a
//!    [`TierShift`](traffic::shift::TierShift).
//! 2. `supervisor::failovers` applies it: [`History::apply`](history::History::apply) begins a failover with
//!    the [cause](history::cause_of) when the first Envoy leaves the primaries, and ends it when the last one
//!    is back; a running drill records the shift; the failback policy may begin a hold of the standby.
//! 3. `supervisor::executor` publishes [`Event::Failover`](crate::telemetry::events::Event::Failover), stores
//!    the record, and puts a new hold in force: stored, then sent to Envoys as overrides, then published as
//!    an event.
//! 4. [`Notifier::run`](crate::telemetry::webhooks::Notifier::run) follows the events and posts each to the
//!    receivers that selected its kind.

pub mod history;
pub mod ledger;
pub mod orders;
pub(crate) mod round;
pub mod supervisor;
pub mod traffic;
