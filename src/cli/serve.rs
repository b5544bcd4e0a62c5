//! `understudy serve`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::app::{self, App, Error};
use crate::cli::check;
use crate::cli::print;

/// Where to serve what.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Config files and directories; none for REST only
    paths: Vec<PathBuf>,
    /// Where Envoys connect
    #[arg(long, env = "UNDERSTUDY_XDS", default_value = "127.0.0.1:18000", value_name = "ADDRESS")]
    xds: SocketAddr,
    /// Where the admin API answers
    #[arg(long, env = "UNDERSTUDY_ADMIN", default_value = "127.0.0.1:8001", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// Where REST state is kept
    #[arg(long, env = "UNDERSTUDY_DATA", default_value = "./understudy-data", value_name = "DIR")]
    data: PathBuf,
    /// Serve on addresses that others reach, without TLS and without tokens
    #[arg(long, env = "UNDERSTUDY_INSECURE")]
    insecure: bool,
    /// Let REST change what is there only with If-Match, so that no writer undoes another unseen
    #[arg(long, env = "UNDERSTUDY_REQUIRE_IF_MATCH")]
    require_if_match: bool,
    /// What is logged: error, warn, info, debug, or a filter such as understudy::xds=debug
    #[arg(long, env = "UNDERSTUDY_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// How it is logged
    #[arg(long, env = "UNDERSTUDY_LOG_FORMAT", default_value = "human", value_name = "FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

/// Serves until it is told to stop.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    start_log(&options)?;
    let app = match App::start(app::Options {
        paths: options.paths,
        xds: options.xds,
        admin: options.admin,
        data: options.data,
        insecure: options.insecure,
        require_if_match: options.require_if_match,
    })
    .await
    {
        Ok(app) => app,
        Err(Error::Config(violations)) => {
            print::note(check::human(&violations).trim_end());
            anyhow::bail!("the config was refused, so nothing is served");
        }
        Err(Error::Other(error)) => return Err(error),
    };
    // For scripts, and for those who asked for port 0.
    print::line(&format!("xds {}", app.addresses().xds))?;
    print::line(&format!("admin {}", app.addresses().admin))?;
    print::line("ready")?;
    app.run(told_to_stop()?).await?;
    Ok(ExitCode::SUCCESS)
}

fn start_log(options: &Options) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&options.log)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Human => log.with_ansi(print::colour()).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Resolves at SIGINT or SIGTERM, which from now on do not end the program by themselves.
pub(crate) fn told_to_stop() -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
