# I have a folder of photographs, one of them broken, and want a vector of each, and to know which failed and why.
cp -r "$PHOTOS" photos    # stands in for a folder of mine
echo "half a download" > photos/broken.jpg

# The first try names a place; the broken file becomes a row, and the exit code 3 says that there is one.
hierax embed photos -o vectors.npz --normalize 2> said.txt && code=0 || code=$?
[ "$code" = 3 ]
grep "vectors.npz: 25 rows of 256 numbers by hiera_nano_96" said.txt
grep "photos/broken.jpg: An image must be one of JPEG" said.txt
grep "1 of 25 files could not be read" said.txt

# The same command again keeps what is there, and says how to replace it.
if hierax embed photos -o vectors.npz 2> refused.txt; then exit 1; fi
grep -e "--overwrite" refused.txt

# The numbers in Python: a row for each file, NaN where there is no vector, and which model made them.
python - <<'PYTHON'
import json

import numpy as np

found = np.load("vectors.npz")
good = found["error"] == ""
assert found["path"][~good].tolist() == ["photos/broken.jpg"]
assert np.isnan(found["embedding"][~good]).all()
assert np.allclose(np.linalg.norm(found["embedding"][good], axis=1), 1, atol=1e-5)
assert json.loads(str(found["metadata"]))["hierax.model"] == "hiera_nano_96"
PYTHON

# Quietly, from a list, at another size, replacing the file: for a script that runs every night.
find photos/flowers -name '*.jpg' | sort | hierax -q embed - -o vectors.npz --overwrite --input-size 128 2> quiet.txt
[ ! -s quiet.txt ]
python -c "import numpy; assert numpy.load('vectors.npz')['embedding'].shape == (12, 256)"
