# I have two kinds of photographs in two folders, and want a classifier that my colleagues load with transformers.
cp -r "$PHOTOS" photos    # stands in for a folder of mine

hierax finetune photos run --steps 12 --batch-size 8 --set seed=1 workers=0 validation_fraction=0.25 > path.txt 2> said.txt
[ "$(cat path.txt)" = run/model ]
head -1 said.txt | grep "model hiera_nano_96 from weights of hiera_nano_96"
grep "18 samples to train on, 6 held out" said.txt
grep "validation top-1 .* of 6)" said.txt
for file in model/model.safetensors recipe.toml run.json summary.json log.jsonl; do [ -s "run/$file" ]; done

# The accuracy counts what training never saw, not what it learned by heart.
hierax eval accuracy photos -m run/model --format json > accuracy.json 2> counted.txt
grep "counting the 6 samples that training held out" counted.txt
python -c "
import json
found = json.load(open('accuracy.json'))
assert found['total'] == 6 and found['correct1'] >= 5, found  # two kinds of photographs that a child tells apart
"

# It names my photographs, by my names.
hierax classify photos/temples -m run/model --top-k 1 --format csv > classes.csv
head -1 classes.csv | grep -x "path,rank,label,index,score,error"
[ "$(cut -d, -f3 classes.csv | grep -cx temples)" -ge 10 ]
[ "$(cut -d, -f6 classes.csv | tail -n +2 | sort -u)" = "" ]

# For the colleagues: the path on stdout, the lines that they need on stderr.
converted=$(hierax convert run/model for_them --to transformers 2> lines.txt)
[ "$converted" = for_them ]
grep "AutoModelForImageClassification.from_pretrained('for_them')" lines.txt
python - <<'PYTHON'
import hierax
import torch

x = torch.randn(2, 3, 96, 96)
mine, theirs = hierax.load("run/model"), hierax.load("for_them")
assert torch.allclose(mine.model(x), theirs.model(x), atol=1e-5)
assert theirs.labels == mine.labels == ["flowers", "temples"]
assert theirs.card.license == mine.card.license == "apache-2.0"
PYTHON

# The same command again would overwrite a run; it is refused, and says what to do.
if hierax finetune photos run --steps 12 2> refused.txt; then exit 1; fi
grep -e "--resume" refused.txt
