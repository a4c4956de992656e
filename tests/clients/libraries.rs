//! Libraries for programs: each is driven by a script in its own language, in `scripts/`, which says `ok` for each part.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::subject::Subject;
use crate::tools;

const PATIENCE: Duration = Duration::from_secs(90);

fn script(name: &str) -> String {
    format!("{}/tests/clients/scripts/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn drive(client: &str, interpreter: &Path, script_name: &str, env: &[(&str, &Path)], parts: usize) {
    let subject = Subject::start(client);
    let mut command = Command::new(interpreter);
    command.arg(script(script_name)).arg(subject.node("agent").http.to_string());
    command.envs(env.iter().copied());
    let said = tools::run(client, command, &subject.federation.dir.0, PATIENCE);
    assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), parts, "{said}");
}

/// The version of a Python package, if this interpreter has it.
fn python_package(python: &Path, package: &str) -> Option<String> {
    let ask = format!("import consul, importlib.metadata as m; print('version', m.version('{package}'))");
    let said = tools::output(python, ["-c", &ask]);
    said.lines().find_map(|line| line.strip_prefix("version ").map(str::to_owned))
}

#[test]
fn debians_python3_consul() {
    let python = Path::new("/usr/bin/python3");
    match python.is_file().then(|| python_package(python, "python-consul")).flatten() {
        None => tools::skip("python3-consul", "apt-get install python3-consul, or .ci/clients"),
        Some(_) => drive("python3-consul", python, "python_consul.py", &[], 8),
    }
}

#[test]
fn py_consul_of_pypi() {
    let python = tools::clients_dir().join("venv/bin/python");
    match python.is_file().then(|| python_package(&python, "py-consul")).flatten() {
        None => tools::skip("py-consul", "pip install py-consul into CLIENTS_DIR/venv, or .ci/clients"),
        Some(_) => drive("py-consul", &python, "python_consul.py", &[], 9),
    }
}

#[test]
fn consul_of_npm() {
    let Some([node]) = tools::need("npm consul", ["node"], "apt-get install nodejs") else { return };
    let modules = tools::clients_dir().join("npm/node_modules");
    if !modules.join("consul").is_dir() {
        return tools::skip("npm consul", "npm install consul in CLIENTS_DIR/npm, or .ci/clients");
    }
    drive("npm-consul", &node, "npm_consul.js", &[("NODE_PATH", &modules)], 5);
}
