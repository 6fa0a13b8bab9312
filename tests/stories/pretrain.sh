# I have many photographs without labels and few with; I pretrain on the many and fine-tune on the few.
cp -r "$PHOTOS" photos    # stands in for a folder of mine

hierax pretrain photos mae -m hiera_nano_96 --steps 8 --batch-size 8 \
    --set workers=0 decoder_depth=1 decoder_dim=32 decoder_heads=2 log_every=1 > path.txt 2> said.txt
[ "$(cat path.txt)" = mae/model ]
head -1 said.txt | grep "from random weights"
grep "(predicting zero: 0.99" said.txt
[ -s mae/reconstructions.png ]

# It learned: the loss at the end is below the one at the beginning.
python - <<'PYTHON'
import json

losses = [loss for line in open("mae/log.jsonl") for loss in json.loads(line).get("losses", [])]
assert len(losses) == 8, losses
assert losses[-1] < losses[0], losses
PYTHON

# What it is, and where it comes from: no published weights, no licence of anybody else.
hierax describe mae/model > card.txt
grep -i "random weights" card.txt
if grep -i "nc-4.0" card.txt; then exit 1; fi

# Its encoder embeds, and is what fine-tuning goes on from.
hierax -q embed photos/flowers -m mae/model -o vectors.npz
hierax finetune photos run -m mae/model --steps 2 --batch-size 8 --set workers=0 2> finetuned.txt
head -1 finetuned.txt | grep "mae/model"
[ -s run/model/model.safetensors ]
