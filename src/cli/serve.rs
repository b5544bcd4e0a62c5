//! `understudy serve`: runs the control plane.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::BoolishValueParser;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::access::identity::IdentityRule;
use crate::access::tls;
use crate::app::{self, App, Error};
use crate::cli::dialect::DialectOptions;
use crate::cli::offline::check;
use crate::cli::print;
use crate::config::values::Duration;
use crate::inspect::removal::{self, AllowedLosses, LossLimits};

/// Options of `understudy serve`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Config files and directories; none for REST only
    paths: Vec<PathBuf>,
    #[command(flatten)]
    dialect: DialectOptions,
    /// Listen address of the xDS server
    #[arg(long, env = "UNDERSTUDY_XDS", default_value = "127.0.0.1:18000", value_name = "ADDRESS")]
    xds: SocketAddr,
    /// Listen address of the admin API
    #[arg(long, env = "UNDERSTUDY_ADMIN", default_value = "127.0.0.1:8001", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// Interval at which files are read without an event, for file systems that have none
    #[arg(long, env = "UNDERSTUDY_POLL", default_value = "30s", value_name = "TIME", value_parser = interval)]
    poll: std::time::Duration,
    /// Data directory of the REST state
    #[arg(long, env = "UNDERSTUDY_DATA", default_value = "./understudy-data", value_name = "DIR")]
    data: PathBuf,
    /// Allow other addresses than loopback without TLS, and without a token until the first one is made
    #[arg(long, env = "UNDERSTUDY_INSECURE")]
    insecure: bool,
    /// Require If-Match for changes of existing entities over REST, so that no writer undoes another unseen
    #[arg(long, env = "UNDERSTUDY_REQUIRE_IF_MATCH")]
    require_if_match: bool,
    /// Require a token on loopback too
    #[arg(long, env = "UNDERSTUDY_REQUIRE_TOKEN")]
    require_token: bool,
    /// Maximum number of requests per second of each token to the admin API
    #[arg(long, env = "UNDERSTUDY_RATE_LIMIT", default_value_t = app::REQUESTS_PER_SECOND, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate_limit: u32,
    /// Directory below which REST and plans may name files with keys and certificates; none: nowhere
    #[arg(long, env = "UNDERSTUDY_MATERIAL_DIR", value_name = "DIR")]
    material_dir: Option<PathBuf>,
    /// Answer Envoys that run the config of another data directory, or one that is not known here, also if that
    /// takes away what they serve
    #[arg(long, env = "UNDERSTUDY_ALLOW_FOREIGN", value_parser = BoolishValueParser::new())]
    allow_foreign: bool,
    #[command(flatten)]
    losses: LossOptions,
    #[command(flatten)]
    tls: PortTlsOptions,
    /// Log filter: error, warn, info, debug, or one such as understudy::xds=debug
    #[arg(long, env = "UNDERSTUDY_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// Format of the log
    #[arg(long, env = "UNDERSTUDY_LOG_FORMAT", default_value = "human", value_name = "FORMAT")]
    log_format: LogStyle,
    /// Destination of traces: the http:// URL of an OpenTelemetry collector that takes OTLP over gRPC
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp: Option<String>,
}

/// Losses that changes by files may cause, those since the last run included.
#[derive(Debug, clap::Args)]
struct LossOptions {
    /// Let files leave a fleet without listeners or routes that has some
    #[arg(long, env = "UNDERSTUDY_ALLOW_EMPTY", value_parser = BoolishValueParser::new())]
    allow_empty: bool,
    /// Let files take away any share of the routes, upstreams and targets
    #[arg(long, env = "UNDERSTUDY_ALLOW_MASS_REMOVAL", value_parser = BoolishValueParser::new())]
    allow_mass_removal: bool,
    /// Maximum percentage of the routes, upstreams or targets, if it is ten or more of them, that files may take
    /// away at once
    #[arg(long, env = "UNDERSTUDY_MAX_REMOVAL", default_value_t = removal::MAX_REMOVAL, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(..=100))]
    max_removal: u8,
}

/// TLS of the ports. The files are read again when they change.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "TLS")]
struct PortTlsOptions {
    /// Certificate for Envoys and its intermediates, in PEM
    #[arg(long, env = "UNDERSTUDY_XDS_TLS_CERT", value_name = "FILE", requires = "xds_tls_key")]
    xds_tls_cert: Option<PathBuf>,
    /// Key of the certificate for Envoys
    #[arg(long, env = "UNDERSTUDY_XDS_TLS_KEY", value_name = "FILE", requires = "xds_tls_cert")]
    xds_tls_key: Option<PathBuf>,
    /// CA file for the certificates that Envoys must show
    #[arg(long, env = "UNDERSTUDY_XDS_CLIENT_CA", value_name = "FILE", requires = "xds_tls_cert")]
    xds_client_ca: Option<PathBuf>,
    /// Subject alternative name that an Envoy's certificate must have: san-equals-node-id,
    /// san-equals-node-cluster, any, or a pattern such as spiffe://example.org/{cluster}/{id}; placeholders are {id},
    /// {cluster}, {region}, {zone} and {metadata.KEY}. May be given several times (in the variable: with commas):
    /// each must hold
    #[arg(
        long,
        env = "UNDERSTUDY_XDS_NODE_IDENTITY",
        value_name = "RULE",
        value_delimiter = ',',
        default_value = "san-equals-node-id"
    )]
    xds_node_identity: Vec<IdentityRule>,
    /// Certificate for clients of the admin API
    #[arg(long, env = "UNDERSTUDY_ADMIN_TLS_CERT", value_name = "FILE", requires = "admin_tls_key")]
    admin_tls_cert: Option<PathBuf>,
    /// Key of the certificate for clients of the admin API
    #[arg(long, env = "UNDERSTUDY_ADMIN_TLS_KEY", value_name = "FILE", requires = "admin_tls_cert")]
    admin_tls_key: Option<PathBuf>,
    /// CA file for the certificates that clients of the admin API must show, beside a token
    #[arg(long, env = "UNDERSTUDY_ADMIN_CLIENT_CA", value_name = "FILE", requires = "admin_tls_cert")]
    admin_client_ca: Option<PathBuf>,
}

impl LossOptions {
    fn limits(&self) -> LossLimits {
        let &Self { allow_empty: empty, allow_mass_removal: mass_removal, max_removal } = self;
        LossLimits { max_removal, allowed: AllowedLosses { empty, mass_removal } }
    }
}

fn interval(text: &str) -> Result<std::time::Duration, String> {
    let time = Duration::parse(text).map(|time| time.0).filter(|time| !time.is_zero());
    time.ok_or_else(|| "write a time such as 250ms, 1s or 5m".to_owned())
}

/// Returns the TLS files of a port, if it has a certificate.
fn files(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> Option<tls::TlsFiles> {
    Some(tls::TlsFiles { certificate: certificate?, key: key?, client_ca })
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogStyle {
    Human,
    Json,
}

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let traces = start_log(&options)?;
    let app = match App::start(app::Options {
        paths: options.paths,
        xds: options.xds,
        admin: options.admin,
        poll: options.poll,
        data: options.data,
        insecure: options.insecure,
        require_if_match: options.require_if_match,
        xds_tls: files(options.tls.xds_tls_cert, options.tls.xds_tls_key, options.tls.xds_client_ca),
        node_identity: options.tls.xds_node_identity.into_iter().collect(),
        admin_tls: files(options.tls.admin_tls_cert, options.tls.admin_tls_key, options.tls.admin_client_ca),
        require_token: options.require_token,
        requests_per_second: options.rate_limit,
        loss_limits: options.losses.limits(),
        material_dir: options.material_dir,
        allow_foreign: options.allow_foreign,
        terms: options.dialect.terms(),
    })
    .await
    {
        Ok(app) => app,
        Err(Error::Config(violations)) => {
            check::report(&violations);
            anyhow::bail!("the config was refused, so nothing is served");
        }
        Err(Error::Other(error)) => return Err(error),
    };
    // Output for scripts, and for callers that asked for port 0.
    print::line(&format!("xds {}", app.addresses().xds))?;
    print::line(&format!("admin {}", app.addresses().admin))?;
    print::line("ready")?;
    let outcome = app.run(stop_signal()?).await;
    if let Some(traces) = traces {
        // Sends the remaining spans. A collector that is gone is no reason to fail.
        let _ = tokio::task::spawn_blocking(move || traces.shutdown()).await;
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Starts logging: events go to standard error, and spans to a collector if there is one.
fn start_log(options: &Options) -> anyhow::Result<Option<SdkTracerProvider>> {
    let filter = EnvFilter::try_new(&options.log)?;
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = match options.log_format {
        LogStyle::Human => log.with_ansi(print::colour()).boxed(),
        LogStyle::Json => log.json().boxed(),
    };
    let traces = options.otlp.as_deref().map(traces).transpose()?;
    let spans =
        traces.as_ref().map(|traces| tracing_opentelemetry::layer().with_tracer(traces.tracer("understudy")));
    tracing_subscriber::registry().with(filter).with(log).with(spans).init();
    Ok(traces)
}

fn traces(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.with_context(|| format!("cannot send traces to {endpoint}"))?;
    let attributes = [KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    let resource = Resource::builder().with_service_name("understudy").with_attributes(attributes).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// Returns a future that resolves at SIGINT or SIGTERM, which from now on do not end the program by
/// themselves.
pub(crate) fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
