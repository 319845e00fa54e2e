//! Everything that must exist before the first measurement, each made when it is absent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

use super::Args;
use super::cases::Model;
use super::measure::{Tools, parse};
use crate::process::{call, output};

/// The source package, which carries llama.cpp whole.
pub const PACKAGE: &str = "llama_cpp_python";
/// Its version.
pub const PACKAGE_VERSION: &str = "0.3.36";

/// What llama.cpp's converter and its build need.
const PYTHON_PACKAGES: [&str; 9] = [
    "torch==2.15.0",
    "transformers==5.23.0",
    "numpy==2.4.6",
    "safetensors==0.8.0",
    "sentencepiece",
    "protobuf",
    "scikit-build-core",
    "cmake",
    "ninja",
];

/// A native release build of the benchmark and nothing that it does not need.
const CMAKE_OPTIONS: [&str; 8] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
];

/// Makes what is absent in the work folder. Whatever is there is taken as it is.
pub fn tools(root: &Path, args: &Args, models: &[&'static Model]) -> anyhow::Result<Tools> {
    let dir = std::path::absolute(args.dir.clone().unwrap_or_else(|| root.join("target/peers")))?;
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let source = dir.join(format!("{PACKAGE}-{PACKAGE_VERSION}/vendor/llama.cpp"));
    let tools = Tools {
        cuvier: cuvier(root, args)?,
        llama_bench: dir.join("build/bin/llama-bench"),
        python: args.python.clone().unwrap_or_else(|| dir.join("venv/bin/python")),
        threads: args.threads,
        dir,
    };
    let converts = models.iter().any(|model| !tools.gguf(model).exists());
    if args.python.is_none() && (converts || args.torch || !tools.llama_bench.exists()) {
        environment(&tools)?;
    }
    if !source.exists() && (converts || !tools.llama_bench.exists()) {
        fetch(&tools)?;
    }
    if !tools.llama_bench.exists() {
        build(&tools, &source)?;
    }
    let scripts = root.join("crates/xtask/src/peers");
    for model in models {
        checkpoint(&tools, model, &scripts)?;
        convert(&tools, model, &source, &scripts)?;
    }
    Ok(tools)
}

/// The binary that is measured: that of `--cuvier`, else of this tree.
fn cuvier(root: &Path, args: &Args) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.cuvier {
        if !path.is_file() {
            bail!("--cuvier {}: no such file", path.display());
        }
        return Ok(std::path::absolute(path)?);
    }
    call(Command::new("cargo").args(["build", "--release", "--package", "cuvier-cli"]).current_dir(root))?;
    let mut metadata = Command::new("cargo");
    metadata.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root);
    let metadata = parse(&output(&mut metadata)?)?;
    let target = metadata.get("target_directory").and_then(Value::as_str);
    Ok(Path::new(target.context("cargo metadata names no target folder")?).join("release/cuvier"))
}

fn environment(tools: &Tools) -> anyhow::Result<()> {
    let folder = tools.dir.join("venv");
    let done = folder.join("packages.txt");
    let packages = PYTHON_PACKAGES.join("\n");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == packages) {
        return Ok(());
    }
    call(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    call(Command::new(&tools.python).args(["-m", "pip", "install", "--quiet"]).args(PYTHON_PACKAGES))?;
    fs::write(&done, packages).with_context(|| done.display().to_string())
}

fn fetch(tools: &Tools) -> anyhow::Result<()> {
    let archive = format!("{PACKAGE}-{PACKAGE_VERSION}.tar.gz");
    if !tools.dir.join(&archive).exists() {
        // Without isolation: pip would otherwise build cmake itself from source to read the package's name.
        let mut pip = Command::new(&tools.python);
        pip.args(["-m", "pip", "download", "--no-deps", "--no-build-isolation", "--no-binary", PACKAGE]);
        call(pip.arg(format!("{PACKAGE}=={PACKAGE_VERSION}")).current_dir(&tools.dir))
            .context("the Python needs pip and scikit-build-core")?;
    }
    call(Command::new("tar").arg("-xzf").arg(&archive).current_dir(&tools.dir))
}

fn build(tools: &Tools, source: &Path) -> anyhow::Result<()> {
    let (cmake, ninja) = (beside(&tools.python, "cmake"), beside(&tools.python, "ninja"));
    let folder = tools.dir.join("build");
    let mut configure = Command::new(&cmake);
    configure.arg("-S").arg(source).arg("-B").arg(&folder).args(["-G", "Ninja"]);
    if ninja.is_absolute() {
        let mut make_program = std::ffi::OsString::from("-DCMAKE_MAKE_PROGRAM=");
        make_program.push(&ninja);
        configure.arg(make_program);
    }
    call(configure.args(CMAKE_OPTIONS))
        .context("llama.cpp needs cmake, ninja and a C++ compiler; pip has the first two")?;
    call(Command::new(&ninja).arg("-C").arg(&folder).arg("llama-bench"))
}

/// A program of the same Python environment, else whatever the machine calls so.
fn beside(python: &Path, name: &str) -> PathBuf {
    let installed = python.with_file_name(name);
    if installed.is_file() { installed } else { PathBuf::from(name) }
}

fn checkpoint(tools: &Tools, model: &Model, scripts: &Path) -> anyhow::Result<()> {
    let folder = tools.checkpoint(model);
    if folder.exists() {
        return Ok(());
    }
    let unfinished = folder.with_extension("part");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| unfinished.display().to_string())?;
    }
    let shapes = format!("{}/", scripts.display());
    let flags = model.synth.iter().map(|flag| flag.replace("SHAPES/", &shapes));
    call(Command::new(&tools.cuvier).arg("synth").args(flags).arg("-o").arg(&unfinished))?;
    fs::rename(&unfinished, &folder).with_context(|| folder.display().to_string())
}

fn convert(tools: &Tools, model: &Model, source: &Path, scripts: &Path) -> anyhow::Result<()> {
    let file = tools.gguf(model);
    if file.exists() {
        return Ok(());
    }
    let unfinished = file.with_extension("gguf.part");
    let mut converter = Command::new(&tools.python);
    converter.arg(scripts.join("convert.py")).arg(source).arg(tools.checkpoint(model));
    call(converter.arg("--outfile").arg(&unfinished))?;
    fs::rename(&unfinished, &file).with_context(|| file.display().to_string())
}
