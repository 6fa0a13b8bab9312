# I have a Python of another version; what the package says without torch must work there, or say what it needs.
tried=0
for python in "$(command -v python)" $OTHER_PYTHONS; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null || echo none)
    case $version in 3.10 | 3.11 | 3.12 | 3.13) ;; *) continue ;; esac
    # Every file is valid there, the package imports, and help needs nothing but the standard library.
    "$python" - "$SOURCES/hierax" <<'PYTHON'
import ast, pathlib, sys

files = list(pathlib.Path(sys.argv[1]).rglob("*.py"))
assert len(files) > 100
for path in files:
    ast.parse(path.read_text(encoding="utf-8"), str(path))
PYTHON
    PYTHONPATH=$SOURCES "$python" -S -m hierax --help > "help-$version.txt"
    grep "finetune" "help-$version.txt"
    PYTHONPATH=$SOURCES "$python" -S -m hierax --version | grep "^hierax [0-9]"
    PYTHONPATH=$SOURCES "$python" -S -c "import hierax; assert 'load' in dir(hierax); raise SystemExit(not hierax.__version__)"
    # A slip is told without torch, too.
    if PYTHONPATH=$SOURCES "$python" -S -m hierax clasify 2> said.txt; then exit 1; fi
    grep "Did you mean 'classify'" said.txt
    cmp "help-$version.txt" "help-$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt"
    tried=$((tried + 1))
done
[ "$tried" -ge 1 ]
