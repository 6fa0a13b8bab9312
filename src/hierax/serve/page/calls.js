"use strict";
// What the page asks the server: the same addresses that programs use, with the same errors.

Hierax.key = "";

/** Ask an address of this server; gives the answer's JSON, or throws an Error with the server's words. */
Hierax.ask = async (address, options = {}) => {
  const headers = {...options.headers, ...(Hierax.key ? {Authorization: `Bearer ${Hierax.key}`} : {})};
  let reply;
  try {
    reply = await fetch(address, {...options, headers});
  } catch {
    throw new Error("The server cannot be reached. Is it still running?");
  }
  if (reply.ok) return options.asBlob ? reply.blob() : reply.json();
  const {error} = await reply.json().catch(() => ({}));
  const wrong = new Error(error || `The server answered ${reply.status}.`);
  wrong.status = reply.status;
  throw wrong;
};

/** Send one image as it is. */
Hierax.send = (address, file) =>
  Hierax.ask(address, {method: "POST", body: file, headers: {"Content-Type": file.type || "application/octet-stream"}});

/** Send several images as a form. */
Hierax.sendAll = (address, files) => {
  const form = new FormData();
  for (const file of files) form.append("file", file);
  return Hierax.ask(address, {method: "POST", body: form});
};

/** Lines that do from elsewhere what the page does, for an image's name. */
Hierax.programs = (model, origin, name, withKey) => {
  const quoted = `'${name.replaceAll("'", "'\\''")}'`;
  const python = JSON.stringify(name);
  const [curlKey, pythonKey] = withKey
    ? [' -H "Authorization: Bearer $KEY"', ', headers={"Authorization": f"Bearer {key}"}'] : ["", ""];
  return [
    ["curl", `curl ${origin}classify${curlKey} -H 'Content-Type: application/octet-stream' --data-binary @${quoted}`],
    ["Python, with requests",
      `import requests\n\nwith open(${python}, "rb") as image:\n    print(requests.post("${origin}classify", data=image${pythonKey}).json())`],
    ["Python, without a server",
      `import hierax\n\npredictor = hierax.load(${JSON.stringify(model)})\nprint(predictor.classify(${python}))\nhierax.view(predictor, ${python}, "view.html")`],
  ];
};
