//! What a process costs, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

use crate::server;

/// `USER_HZ`, which Linux has fixed for all that it tells of in ticks.
const TICK: Duration = Duration::from_millis(10);

/// Reads the processor time and the memory of one process.
#[derive(Debug)]
pub(crate) struct Gauge {
    pid: u32,
    /// What each thread had used when it was seen last; one that ended keeps its place.
    threads: BTreeMap<u32, Duration>,
    /// Of threads whose number was given to another one.
    ended: Duration,
}

impl Gauge {
    /// A gauge of the process `pid`.
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid, threads: BTreeMap::new(), ended: Duration::ZERO }
    }

    /// The processor time that the process has used, to the nanosecond where the kernel tells it. It includes
    /// what the kernel did for it.
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

    /// The same in ticks of 10 ms.
    fn ticks(&self) -> anyhow::Result<Duration> {
        let stat = self.read("stat")?;
        // The name before it may contain anything.
        let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat is not as expected")?;
        let ticks: u32 = fields.split(' ').skip(11).take(2).filter_map(|it| it.parse::<u32>().ok()).sum();
        Ok(TICK * ticks)
    }

    /// Resident memory, in bytes.
    pub(crate) fn rss(&self) -> anyhow::Result<u64> {
        server::rss(self.pid)
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}
