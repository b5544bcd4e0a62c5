//! Python with gRPC for the client in `client.py`: the one named by `GRPC_PYTHON`, else a pinned release,
//! fetched once into the user's cache directory, as `understudy envoy` does with Envoy.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const VERSION: &str = "1.85.1";

/// Pinned packages for CPython 3.10 to 3.14 on Linux and macOS. Pip refuses anything else that the package
/// index delivers.
const REQUIREMENTS: &str = "\
grpcio==1.85.1 \\
    --hash=sha256:1f04e51dc65c82af420f6cd177ea76132a78c14dc7adc3044f549b419bc70487 \\
    --hash=sha256:83aced2a1c05648cee0de34e531351118b14c58238f0a61b43559ac8851647a8 \\
    --hash=sha256:a1a72d19c0ab84b4b73b6c47eeaade76d84b1973a51593ff1160a73df33d03d9 \\
    --hash=sha256:de520b1555ae445cdc4f8f1cc7ccba12a19992bfafa7c292ebe7fe1fe5da6c53 \\
    --hash=sha256:e0e6d5829b50a2ffcfcd2dbf08d02ac0d6919051a2e97c2ee27c99bc9916a245 \\
    --hash=sha256:7a09a7e89bbd8dba2bf5dee77bf6d0485120f4cffa209a89cb3dce5575d625b3 \\
    --hash=sha256:c5a914b3a3052d841766946ecd1c6ebdacc8bf166d89a42c83fda70ae8f53aeb \\
    --hash=sha256:cfa9bf4daed57dd5bd5fac4be3276f5dc1703f41abf4df0737f4e7952705cbc6 \\
    --hash=sha256:9885436e83eab92dd0d476642baf08a17c55ef2b1db430adcba3e89bb6938a5d \\
    --hash=sha256:658a9d89c5736bf4aa3ef4ecbc79528e26d8e23c5e1c83417d2870a1a06063e5 \\
    --hash=sha256:843aa281a48188621f50880496d35defed51298bcb66d5345d5f282fd3f87354 \\
    --hash=sha256:6bb4bbb5cb46010687db552fd88852c405595814fb7d435b072124bd6b93f827 \\
    --hash=sha256:0bde4264ca71aaf3bc56c587380c426b1c959d1db0ab0a3f632bc66515f9726f \\
    --hash=sha256:90a7e0f26de39d15f5c741b8848bb2065c9ab7351c57d4fc973ff5cbda0cb9c7 \\
    --hash=sha256:421925365f9a665830eded01b8053033abbc2fbabc9bb4e9c59c3b5b12acbab9
typing_extensions==4.16.0 \\
    --hash=sha256:481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8
";

/// Returns a command that runs Python with gRPC.
///
/// # Errors
///
/// Fails with a line that says what to do.
pub(crate) fn with_grpc() -> Result<Command, String> {
    if let Some(python) = env::var_os("GRPC_PYTHON").filter(|value| !value.is_empty()) {
        return Ok(Command::new(python));
    }
    let repair = |error: String| {
        format!(
            "cannot fetch grpcio {VERSION}: {error}; install python3 with venv (Debian: apt-get install python3-venv) \
             and check the network, or set GRPC_PYTHON to a python3 that can import grpc"
        )
    };
    let packages = find_or_fetch().map_err(repair)?;
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", packages);
    Ok(python)
}

/// Returns the directory of the packages, fetching them if they are missing. A directory gets its final name
/// only when it is complete, so finding it is enough.
fn find_or_fetch() -> Result<PathBuf, String> {
    // The packages are built anew for every version of Python.
    let tag = "import sys; print('cp%d%d' % sys.version_info[:2])";
    let tag = run(Command::new("python3").args(["-c", tag]))?;
    let cache = cache_directory().ok_or("there is no home directory; set HOME or XDG_CACHE_HOME")?;
    let name = format!("grpcio-{VERSION}-{}", tag.trim());
    let place = cache.join(&name);
    if place.is_dir() {
        return Ok(place);
    }
    let io = |error: std::io::Error| format!("cannot write {}: {error}", cache.display());
    fs::create_dir_all(&cache).map_err(io)?;
    // Another process may be fetching too. The lock is released when the process that holds it ends.
    let lock = File::create(cache.join(format!("{name}.lock"))).map_err(io)?;
    lock.lock().map_err(io)?;
    if place.is_dir() {
        return Ok(place);
    }
    let partial = cache.join(format!("{name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(io)?;
    }
    fs::create_dir_all(&partial).map_err(io)?;
    let packages = fetch(&partial)?;
    fs::rename(packages, &place).map_err(io)?;
    fs::remove_dir_all(&partial).map_err(io)?;
    Ok(place)
}

/// Fetches the packages into a directory below `partial`.
fn fetch(partial: &Path) -> Result<PathBuf, String> {
    let (venv, packages) = (partial.join("venv"), partial.join("packages"));
    let requirements = partial.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(|error| error.to_string())?;
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    run(Command::new(venv.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
        .args(["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r"])
        .arg(&requirements)
        .arg("--target")
        .arg(&packages))?;
    Ok(packages)
}

fn cache_directory() -> Option<PathBuf> {
    let of_user = match env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(path) => path,
        None => env::home_dir().filter(|home| !home.as_os_str().is_empty())?.join(".cache"),
    };
    Some(of_user.join("understudy"))
}

fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run {program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().replace('\n', " ");
    Err(format!("{program} said: {said}"))
}
