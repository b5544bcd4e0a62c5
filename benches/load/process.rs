//! Cost of a process, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

use crate::server;

/// Duration of a tick: `USER_HZ`, which Linux has fixed for everything that it reports in ticks.
const TICK: Duration = Duration::from_millis(10);

/// Reader of the processor time and the memory of one process.
#[derive(Debug)]
pub(crate) struct Gauge {
    pid: u32,
    /// Time of each thread when it was last seen; a thread that ended keeps its entry.
    threads: BTreeMap<u32, Duration>,
    /// Time of threads whose id was given to another thread.
    ended: Duration,
}

impl Gauge {
    /// Creates a gauge of the process `pid`.
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid, threads: BTreeMap::new(), ended: Duration::ZERO }
    }

    /// Returns the processor time that the process has used, to the nanosecond if the kernel reports it. The
    /// time that the kernel spent for the process is included.
    pub(crate) fn cpu(&mut self) -> anyhow::Result<Duration> {
        let tasks = format!("/proc/{}/task", self.pid);
        let tasks = fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))?;
        for task in tasks {
            let path = task?.path();
            let Some(thread) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else {
                continue;
            };
            let Ok(schedstat) = fs::read_to_string(path.join("schedstat")) else {
                // No such file, or the thread has just ended.
                if path.exists() {
                    return self.ticks();
                }
                continue;
            };
            let used = schedstat.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0);
            let used = Duration::from_nanos(used);
            let before = self.threads.insert(thread, used).unwrap_or_default();
            if used < before {
                self.ended += before;
            }
        }
        Ok(self.ended + self.threads.values().sum::<Duration>())
    }

    /// Returns the processor time in ticks of 10 ms.
    fn ticks(&self) -> anyhow::Result<Duration> {
        let stat = self.read("stat")?;
        // The name before it may contain anything.
        let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat is not as expected")?;
        let ticks: u32 = fields.split(' ').skip(11).take(2).filter_map(|it| it.parse::<u32>().ok()).sum();
        Ok(TICK * ticks)
    }

    /// Returns the resident memory, in bytes.
    pub(crate) fn rss(&self) -> anyhow::Result<u64> {
        server::rss(self.pid)
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}
