"use strict";
// A picture from the camera: a phone opens its own, other machines show what their camera sees.

/** Ask for a picture; `taken` gets it as a file. Where no camera can be opened, `refused` gets the reason. */
Hierax.camera = async (dialog, taken, refused) => {
  const video = dialog.querySelector("video");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
  } catch (error) {
    // Browsers give cameras to pages of https and of this machine alone; a phone's file input opens its camera anyway.
    return refused(navigator.mediaDevices ? `The camera cannot be opened: ${error.message}.`
      : "This browser gives no camera to a page without https. Choose a file instead: a phone offers its camera there.");
  }
  const take = dialog.querySelector("#take");
  take.disabled = true; // until there is a picture: before, the canvas would be empty
  video.onloadeddata = () => { take.disabled = false; take.focus(); };
  video.srcObject = stream;
  dialog.showModal();
  const end = () => {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
  };
  dialog.addEventListener("close", end, {once: true});
  dialog.querySelector("#close").onclick = () => dialog.close();
  take.onclick = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => taken(new File([blob], "camera.jpg", {type: "image/jpeg"})), "image/jpeg", 0.92);
    dialog.close();
  };
};
