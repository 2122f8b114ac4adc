// As in the requirements document, in a server component.
import { AIAnalysisDisplay, SmartImage } from "smartserve-image/react";

const mediaId = 2;

export default function Page() {
  return (
    <>
      <SmartImage
        mediaId={mediaId}
        size="thumbnail"
        alt="Profile"
        backgroundOption="removed" // For logos: 'removed' or 'original'
        preferredFormats={['avif', 'webp', 'jpeg', 'png']}
        showAIData={true} // Optional: display AI analysis
      />
      <p>between</p>
      <AIAnalysisDisplay
        mediaId={mediaId}
        showStyle={true}
        showColors={true}
        showQuality={true}
        showMood={true}
      />
    </>
  );
}
